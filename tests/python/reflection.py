"""Courser from Python with nothing but its address: the contract comes from server reflection."""

from types import SimpleNamespace

import grpc
from checks import check, main
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

TIMEOUT = 20


def setup(address):
    channel = grpc.insecure_channel(address)
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(database)
    return SimpleNamespace(channel=channel, database=database, pool=pool)


def call(client, service, method, **fields):
    """A unary call, built from the descriptors that the broker sent."""
    descriptor = client.pool.FindServiceByName(f"courser.v1.{service}").FindMethodByName(method)
    request = GetMessageClass(descriptor.input_type)(**fields)
    invoke = client.channel.unary_unary(
        f"/courser.v1.{service}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(descriptor.output_type).FromString,
    )
    return invoke(request, timeout=TIMEOUT)


@check("reflection: the services are listed")
def services(client):
    names = client.database.get_services()
    for name in ("courser.v1.Broker", "courser.v1.Admin", "grpc.health.v1.Health"):
        assert name in names, names


@check("reflection: a queue is created")
def create(client):
    answer = call(client, "Admin", "CreateQueue", name="reflected")
    assert answer.created and answer.queue.options.max_attempts == 10


@check("reflection: a message is published")
def publish(client):
    messages = [{"topic": "reflected", "payload": b"hello", "headers": {"from": "python"}}]
    answer = call(client, "Broker", "Publish", messages=messages)
    assert answer.results[0].queues == 1


@check("reflection: it is pulled and acked")
def consume(client):
    answer = call(client, "Broker", "Pull", queue="reflected", wait={"seconds": TIMEOUT - 5})
    (delivery,) = answer.deliveries
    assert delivery.message.payload == b"hello"
    assert dict(delivery.message.headers) == {"from": "python"}
    settled = call(client, "Broker", "Settle", settle={"ack": [delivery.lease_id]}).settled
    assert list(settled.ok) == [delivery.lease_id]
    stats = call(client, "Admin", "GetQueue", name="reflected").queue.stats
    assert (stats.ready, stats.leased, stats.acked_total) == (0, 0, 1)


@check("reflection: a refusal tells its reason in google.rpc.ErrorInfo")
def refusal(client):
    try:
        call(client, "Admin", "GetQueue", name="nowhere")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        assert b"QUEUE_NOT_FOUND" in details
    else:
        raise AssertionError("it was found")


if __name__ == "__main__":
    main(setup)
