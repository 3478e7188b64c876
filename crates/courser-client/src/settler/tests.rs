use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::{
    time::to_wire_duration,
    wire::{SettleOutcome, SettleRefusal, SubscribeRequest, subscribe_request::Kind},
};

fn settler() -> (Settler, UnboundedReceiver<SubscribeRequest>) {
    let (settles, requests) = SettleSender::seen();
    (Settler::new(settles), requests)
}

fn sent(requests: &mut UnboundedReceiver<SubscribeRequest>) -> Settle {
    match requests.try_recv().unwrap().kind {
        Some(Kind::Settle(settle)) => settle,
        other => panic!("{other:?}"),
    }
}

fn ok(lease_ids: &[u64]) -> Settled {
    Settled {
        ok: lease_ids.to_vec(),
        refused: Vec::new(),
    }
}

#[tokio::test]
async fn what_comes_while_settlements_are_on_their_way_leaves_together() {
    let (settler, mut requests) = settler();
    let first = settler.settle(Verb::Ack(1));
    let second = settler.settle(Verb::Ack(2));
    let third = settler.settle(Verb::Release(3));
    assert_eq!(sent(&mut requests).ack, [1]);
    assert!(requests.try_recv().is_err());

    settler.settled(ok(&[1]));
    let settle = sent(&mut requests);
    assert_eq!((settle.ack, settle.release), (vec![2], vec![3]));
    settler.settled(ok(&[2, 3]));
    for settlement in [first, second, third] {
        settlement.await.unwrap();
    }
    settler.idle().await;
}

#[tokio::test]
async fn each_lease_has_a_result_of_its_own() {
    let (settler, mut requests) = settler();
    let first = settler.settle(Verb::Ack(1));
    let second = settler.settle(Verb::Ack(2));
    let refusal = SettleRefusal {
        lease_id: 1,
        outcome: SettleOutcome::Expired.into(),
        message: String::new(),
    };
    sent(&mut requests);
    settler.settled(Settled {
        ok: Vec::new(),
        refused: vec![refusal],
    });
    settler.settled(ok(&[2]));
    let Error::Settle(error) = first.await.unwrap_err() else {
        panic!("another error")
    };
    assert_eq!((error.lease_id, error.outcome), (1, SettleOutcome::Expired));
    second.await.unwrap();
}

#[tokio::test]
async fn an_ack_follows_the_extension_of_its_lease() {
    let (settler, mut requests) = settler();
    let by = Some(to_wire_duration(Duration::from_secs(5)));
    let extended = settler.settle(Verb::Extend(Extend { lease_id: 1, by }));
    let acked = settler.settle(Verb::Ack(1));
    assert_eq!(sent(&mut requests).extend.len(), 1);
    settler.settled(ok(&[1]));
    extended.await.unwrap();
    assert_eq!(sent(&mut requests).ack, [1]);
    settler.settled(ok(&[1]));
    acked.await.unwrap();
}

#[tokio::test]
async fn a_broken_stream_leaves_nobody_waiting() {
    let (settler, _requests) = settler();
    let on_way = settler.settle(Verb::Ack(1));
    let waiting = settler.settle(Verb::Ack(2));
    settler.fail(&Error::stream_ended());
    assert!(on_way.await.unwrap_err().is_unreachable());
    assert!(waiting.await.unwrap_err().is_unreachable());
    assert!(
        settler
            .settle(Verb::Ack(3))
            .await
            .unwrap_err()
            .is_unreachable()
    );
    settler.idle().await;
}
