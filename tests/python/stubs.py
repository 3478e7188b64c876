"""Courser from Python with stubs generated from proto/: publish, consume, settle, dead letters."""

import queue
from types import SimpleNamespace

import grpc
from checks import check, main
from courser.v1 import admin_pb2, admin_pb2_grpc, broker_pb2, broker_pb2_grpc, message_pb2
from google.protobuf.duration_pb2 import Duration

TIMEOUT = 20


def setup(address):
    channel = grpc.insecure_channel(address)
    return SimpleNamespace(
        broker=broker_pb2_grpc.BrokerStub(channel), admin=admin_pb2_grpc.AdminStub(channel)
    )


def publish(client, topic, *payloads):
    messages = [message_pb2.Message(topic=topic, payload=payload) for payload in payloads]
    request = broker_pb2.PublishRequest(messages=messages)
    return client.broker.Publish(request, timeout=TIMEOUT).results


def pull(client, name, count=1):
    request = broker_pb2.PullRequest(
        queue=name, consumer="python", max_messages=count, wait=Duration(seconds=TIMEOUT)
    )
    return client.broker.Pull(request, timeout=2 * TIMEOUT).deliveries


def settle(client, **kinds):
    request = broker_pb2.SettleRequest(settle=broker_pb2.Settle(**kinds))
    return client.broker.Settle(request, timeout=TIMEOUT).settled


def stats(client, name):
    return client.admin.GetQueue(admin_pb2.GetQueueRequest(name=name), timeout=TIMEOUT).queue.stats


class Consumer:
    """One Subscribe stream: requests go through a queue, answers are taken as they come."""

    def __init__(self, client, name):
        self.requests = queue.Queue()
        opening = broker_pb2.Open(queue=name, consumer="python", max_messages=10)
        self.requests.put(broker_pb2.SubscribeRequest(open=opening))
        self.responses = client.broker.Subscribe(iter(self.requests.get, None), timeout=TIMEOUT)
        self.deliveries = []

    def next(self):
        while not self.deliveries:
            self.deliveries += next(self.responses).deliveries.deliveries
        return self.deliveries.pop(0)

    def settle(self, **kinds):
        self.requests.put(broker_pb2.SubscribeRequest(settle=broker_pb2.Settle(**kinds)))
        while True:
            response = next(self.responses)
            if response.WhichOneof("kind") == "settled":
                return response.settled
            self.deliveries += response.deliveries.deliveries

    def close(self):
        self.requests.put(None)
        self.responses.cancel()


@check("stubs: a queue is created, and creating it again changes nothing")
def create(client):
    options = message_pb2.QueueOptions(
        bindings=[message_pb2.Binding(pattern="order.*")],
        max_attempts=2,
        backoff=message_pb2.Backoff(initial=Duration(), max=Duration()),
    )
    request = admin_pb2.CreateQueueRequest(name="orders", options=options)
    assert client.admin.CreateQueue(request, timeout=TIMEOUT).created
    assert not client.admin.CreateQueue(request, timeout=TIMEOUT).created


@check("stubs: a batch is published and each message is confirmed")
def publish_batch(client):
    results = publish(client, "order.created", b"one", b"two", b"three")
    assert [result.queues for result in results] == [1, 1, 1]
    positions = [result.position for result in results]
    assert positions == sorted(set(positions))


@check("stubs: a subscription delivers in order and acks are answered")
def subscribe(client):
    consumer = Consumer(client, "orders")
    deliveries = [consumer.next() for _ in range(3)]
    assert [d.message.payload for d in deliveries] == [b"one", b"two", b"three"]
    assert all(d.attempt == 1 for d in deliveries)
    settled = consumer.settle(ack=[d.lease_id for d in deliveries])
    assert len(settled.ok) == 3 and not settled.refused
    consumer.close()
    assert stats(client, "orders").acked_total == 3


@check("stubs: two nacks dead-letter a message with its story")
def dead_letter(client):
    publish(client, "order.paid", b"poison")
    for attempt in (1, 2):
        (delivery,) = pull(client, "orders")
        assert delivery.attempt == attempt
        nack = broker_pb2.Nack(lease_id=delivery.lease_id, error=f"failure {attempt}")
        assert list(settle(client, nack=[nack]).ok) == [delivery.lease_id]
    assert stats(client, "orders").dead == 1
    peek = admin_pb2.PeekEntriesRequest(queue="orders.dlq", limit=10)
    (entry,) = client.admin.PeekEntries(peek, timeout=TIMEOUT).entries
    assert entry.dead_letter.reason == "max_attempts" and entry.dead_letter.queue == "orders"
    assert [a.error for a in entry.attempts] == ["failure 1", "failure 2"]


@check("stubs: a redrive brings it back, and it is pulled and acked")
def redrive(client):
    request = admin_pb2.RedriveEntriesRequest(queue="orders.dlq")
    assert client.admin.RedriveEntries(request, timeout=TIMEOUT).redriven == 1
    (delivery,) = pull(client, "orders")
    assert (delivery.message.payload, delivery.attempt) == (b"poison", 1)
    assert list(settle(client, ack=[delivery.lease_id]).ok) == [delivery.lease_id]
    again = settle(client, ack=[delivery.lease_id])
    assert again.refused[0].outcome == broker_pb2.SETTLE_OUTCOME_UNKNOWN


@check("stubs: a publish stream is confirmed by number")
def publish_stream(client):
    requests = [
        broker_pb2.PublishStreamRequest(
            number=number, messages=[message_pb2.Message(topic="order.created", payload=b"x")]
        )
        for number in range(100)
    ]
    confirms = []
    for response in client.broker.PublishStream(iter(requests), timeout=TIMEOUT):
        confirms += response.confirms
    assert [confirm.number for confirm in confirms] == list(range(100))
    assert all(confirm.results[0].queues == 1 for confirm in confirms)
    assert stats(client, "orders").ready == 100


@check("stubs: a bad topic is refused, naming the field")
def bad_topic(client):
    try:
        publish(client, "not a topic", b"x")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "messages[0].topic" in error.details()
    else:
        raise AssertionError("it was taken")


@check("stubs: deleting the queue ends its consumers with NOT_FOUND")
def delete(client):
    client.admin.PurgeQueue(admin_pb2.PurgeQueueRequest(name="orders"), timeout=TIMEOUT)
    consumer = Consumer(client, "orders")
    nobody = consumer.settle(ack=[1])
    assert len(nobody.refused) == 1
    client.admin.DeleteQueue(admin_pb2.DeleteQueueRequest(name="orders"), timeout=TIMEOUT)
    try:
        next(consumer.responses)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND
    else:
        raise AssertionError("the stream goes on")


if __name__ == "__main__":
    main(setup)
