//! Many messages on their way at once, and what became of each of them.
//!
//! A batch is published whole or not at all, so one bad line takes the good ones beside it along. At the
//! first refusal no more is given; what was refused is published again, each line alone, and so it is
//! known which one it was.

use std::{
    collections::VecDeque,
    future::Future as _,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use courser_client::{Client, Confirmation, Error, Message, PublishResult, Publisher};

use super::{Publish, Report};
use crate::cli::{
    output::Output,
    value::{count, number},
};

/// Messages whose results are not printed yet.
const WAITING_MAX: usize = 10_000;

/// Messages that are published one after the other.
pub(super) struct Feed<'a> {
    publish: &'a Publish,
    client: &'a Client,
    publisher: Publisher,
    waiting: VecDeque<Given>,
    /// Refused, or beside one that was, in their order.
    refused: Vec<(u64, Message, Error)>,
    /// Given so far.
    given: u64,
    /// May or may not have been published.
    unknown: u64,
    /// Why that is not known.
    failure: Option<Error>,
}

struct Given {
    number: u64,
    message: Message,
    confirmation: Confirmation,
}

impl<'a> Feed<'a> {
    pub(super) fn new(publish: &'a Publish, client: &'a Client, publisher: Publisher) -> Self {
        Self {
            publish,
            client,
            publisher,
            waiting: VecDeque::new(),
            refused: Vec::new(),
            given: 0,
            unknown: 0,
            failure: None,
        }
    }

    /// Whether something went wrong, so that no more is to be given.
    pub(super) fn stops(&self) -> bool {
        !self.refused.is_empty() || self.failure.is_some()
    }

    /// Gives the message of that number (of its line, or of its repetition).
    pub(super) async fn give(
        &mut self,
        number: u64,
        message: Message,
        output: &mut Output,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        self.given += 1;
        match self.publisher.publish(message.clone()).await {
            Ok(confirmation) => self.waiting.push_back(Given {
                number,
                message,
                confirmation,
            }),
            Err(error) => self.went_wrong(number, message, error),
        }
        loop {
            let full = self.waiting.len() >= WAITING_MAX;
            let Some(first) = self.waiting.front_mut() else {
                return Ok(());
            };
            let mut context = Context::from_waker(Waker::noop());
            let result = match Pin::new(&mut first.confirmation).poll(&mut context) {
                Poll::Ready(result) => result,
                Poll::Pending if full => (&mut first.confirmation).await,
                Poll::Pending => return Ok(()),
            };
            self.take_first(result, output, report)?;
        }
    }

    /// Awaits what is on its way, and tells how it went.
    pub(super) async fn finish(
        mut self,
        output: &mut Output,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        while let Some(first) = self.waiting.front_mut() {
            let result = (&mut first.confirmation).await;
            self.take_first(result, output, report)?;
        }
        let mut first = None;
        for (number, message, error) in std::mem::take(&mut self.refused) {
            match self.again(message, error).await {
                Ok(result) => report.take(output, result)?,
                Err(error) if error.is_definite() => {
                    first.get_or_insert((number, error));
                }
                Err(error) => {
                    self.unknown += 1;
                    self.failure.get_or_insert(error);
                }
            }
        }
        let (error, refused) = match (self.failure.take(), first) {
            (None, None) => return Ok(()),
            (None, Some((number, error))) => (error, Some(number)),
            (Some(failure), first) => (failure, first.map(|(number, _)| number)),
        };
        Err(anyhow::Error::from(error).context(self.sentence(report, refused)))
    }

    fn take_first(
        &mut self,
        result: Result<PublishResult, Error>,
        output: &mut Output,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        match (self.waiting.pop_front(), result) {
            (_, Ok(result)) => report.take(output, result)?,
            (Some(given), Err(error)) => self.went_wrong(given.number, given.message, error),
            (None, Err(_)) => {}
        }
        Ok(())
    }

    fn went_wrong(&mut self, number: u64, message: Message, error: Error) {
        if error.is_definite() {
            self.refused.push((number, message, error));
        } else {
            self.unknown += 1;
            self.failure.get_or_insert(error);
        }
    }

    /// Publishes a line that was refused alone. Repetitions of one message need no second look, and
    /// without a broker there is none.
    async fn again(&self, message: Message, error: Error) -> Result<PublishResult, Error> {
        if !self.publish.has_lines() || self.failure.is_some() {
            return Err(error);
        }
        let results = self.client.publish(self.publish.request(message)).await?;
        results.into_iter().next().ok_or(error)
    }

    fn sentence(&self, report: &Report, refused: Option<u64>) -> String {
        let (thing, things) = if self.publish.has_lines() {
            ("line", "lines")
        } else {
            ("message", "messages")
        };
        let given = count(self.given, thing, things);
        let mut sentence = format!("published {} of {given}", number(report.messages));
        if self.unknown > 0 {
            sentence.push_str(&format!(", {} may be", number(self.unknown)));
        }
        if let Some(refused) = refused {
            sentence.push_str(&format!("; {thing} {refused} was refused"));
        }
        sentence
    }
}
