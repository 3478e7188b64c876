//! Queues and their entries.

use crate::{client::Client, error::Error, wire};

impl Client {
    /// Creates a queue and its dead-letter queue. With the same options again it changes nothing.
    ///
    /// # Errors
    /// `Refused`, `Failed`, `Unreachable`.
    pub async fn create_queue(
        &self,
        name: impl Into<String>,
        options: wire::QueueOptions,
    ) -> Result<wire::CreateQueueResponse, Error> {
        let request = wire::CreateQueueRequest {
            name: name.into(),
            options: Some(options),
        };
        Ok(self.admin.clone().create_queue(request).await?.into_inner())
    }

    /// Changes the options that `paths` names; those not set in `options` go back to their default.
    ///
    /// # Errors
    /// `Refused`, `Failed`, `Unreachable`.
    pub async fn update_queue(
        &self,
        name: impl Into<String>,
        options: wire::QueueOptions,
        paths: Vec<String>,
    ) -> Result<wire::UpdateQueueResponse, Error> {
        let request = wire::UpdateQueueRequest {
            name: name.into(),
            options: Some(options),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        Ok(self.admin.clone().update_queue(request).await?.into_inner())
    }

    /// Deletes a queue and its dead-letter queue with everything in them.
    ///
    /// # Errors
    /// `Refused`, `Failed`, `Unreachable`.
    pub async fn delete_queue(
        &self,
        name: impl Into<String>,
        if_empty: bool,
    ) -> Result<wire::DeleteQueueResponse, Error> {
        let request = wire::DeleteQueueRequest {
            name: name.into(),
            if_empty,
        };
        Ok(self.admin.clone().delete_queue(request).await?.into_inner())
    }

    /// A queue with its figures.
    ///
    /// # Errors
    /// `Refused`, `Failed`, `Unreachable`.
    pub async fn get_queue(&self, name: impl Into<String>) -> Result<wire::Queue, Error> {
        let request = wire::GetQueueRequest { name: name.into() };
        let response = self.admin.clone().get_queue(request).await?.into_inner();
        Ok(response.queue.unwrap_or_default())
    }

    /// All queues whose name starts with `prefix`, by name.
    ///
    /// # Errors
    /// `Refused`, `Failed`, `Unreachable`.
    pub async fn list_queues(&self, prefix: impl Into<String>) -> Result<Vec<wire::Queue>, Error> {
        let mut request = wire::ListQueuesRequest {
            prefix: prefix.into(),
            ..wire::ListQueuesRequest::default()
        };
        let mut queues = Vec::new();
        loop {
            let page = self
                .admin
                .clone()
                .list_queues(request.clone())
                .await?
                .into_inner();
            queues.extend(page.queues);
            if page.next_page_token.is_empty() {
                return Ok(queues);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Removes ready and delayed entries, oldest first; 0 is all. Answers how many.
    ///
    /// # Errors
    /// `Refused`, `Failed`, `Unreachable`.
    pub async fn purge_queue(&self, name: impl Into<String>, limit: u64) -> Result<u64, Error> {
        let request = wire::PurgeQueueRequest {
            name: name.into(),
            limit,
        };
        Ok(self
            .admin
            .clone()
            .purge_queue(request)
            .await?
            .into_inner()
            .purged)
    }

    /// Stops deliveries; publishing goes on.
    ///
    /// # Errors
    /// `Refused`, `Failed`, `Unreachable`.
    pub async fn pause_queue(&self, name: impl Into<String>) -> Result<wire::Queue, Error> {
        let request = wire::PauseQueueRequest { name: name.into() };
        let response = self.admin.clone().pause_queue(request).await?.into_inner();
        Ok(response.queue.unwrap_or_default())
    }

    /// Lets deliveries go on.
    ///
    /// # Errors
    /// `Refused`, `Failed`, `Unreachable`.
    pub async fn resume_queue(&self, name: impl Into<String>) -> Result<wire::Queue, Error> {
        let request = wire::ResumeQueueRequest { name: name.into() };
        let response = self.admin.clone().resume_queue(request).await?.into_inner();
        Ok(response.queue.unwrap_or_default())
    }

    /// Shows entries and changes nothing.
    ///
    /// # Errors
    /// `Refused`, `Failed`, `Unreachable`.
    pub async fn peek_entries(
        &self,
        request: wire::PeekEntriesRequest,
    ) -> Result<Vec<wire::Entry>, Error> {
        Ok(self
            .admin
            .clone()
            .peek_entries(request)
            .await?
            .into_inner()
            .entries)
    }

    /// Moves dead letters back to where they came from, or elsewhere. Answers how many, and where to go
    /// on.
    ///
    /// # Errors
    /// `Refused`, `Failed`, `Unreachable`.
    pub async fn redrive_entries(
        &self,
        request: wire::RedriveEntriesRequest,
    ) -> Result<wire::RedriveEntriesResponse, Error> {
        Ok(self
            .admin
            .clone()
            .redrive_entries(request)
            .await?
            .into_inner())
    }

    /// The figures of the queues named, or of all, now and every second.
    ///
    /// # Errors
    /// `Refused`, `Failed`, `Unreachable`.
    pub async fn watch_stats(&self, queues: Vec<String>) -> Result<StatsWatch, Error> {
        let request = wire::WatchStatsRequest { queues };
        Ok(StatsWatch(
            self.admin.clone().watch_stats(request).await?.into_inner(),
        ))
    }

    /// What the broker says about itself.
    ///
    /// # Errors
    /// `Refused`, `Failed`, `Unreachable`.
    pub async fn server_info(&self) -> Result<wire::GetServerInfoResponse, Error> {
        let request = wire::GetServerInfoRequest {};
        Ok(self
            .admin
            .clone()
            .get_server_info(request)
            .await?
            .into_inner())
    }
}

/// Figures of queues, second by second.
#[derive(Debug)]
pub struct StatsWatch(tonic::Streaming<wire::WatchStatsResponse>);

impl StatsWatch {
    /// The next figures; `None` when the broker ended the stream.
    ///
    /// # Errors
    /// `Refused`, `Failed`, `Unreachable`.
    pub async fn next(&mut self) -> Result<Option<Vec<wire::Queue>>, Error> {
        Ok(self.0.message().await?.map(|response| response.queues))
    }
}
