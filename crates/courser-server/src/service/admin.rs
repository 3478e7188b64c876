//! The control plane: queues, their entries, and what can be seen of them.

use std::sync::Arc;

use courser_engine::BrokerHandle;
use courser_proto::v1::{self, admin_server::Admin};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::watch::{self, StatsStream};
use crate::{
    ServerOptions,
    answers::Answers,
    connection::Way,
    convert::{
        new_queue_name_from_proto, new_queue_options_from_proto, options_change_from_proto,
        page_from_proto, peek_from_proto, peeked_to_proto, queue_name_from_proto, queue_to_proto,
        redrive_from_proto, server_info_to_proto, watched_from_proto,
    },
    limits,
    status::{queue_error_to_status, too_many_watches},
};

/// The Admin service.
#[derive(Debug)]
pub(crate) struct AdminService {
    handle: BrokerHandle,
    answers: Answers,
    options: ServerOptions,
    watches: Arc<Semaphore>,
}

impl AdminService {
    pub(crate) fn new(handle: BrokerHandle, answers: Answers, options: ServerOptions) -> Self {
        Self {
            handle,
            answers,
            options,
            watches: Arc::new(Semaphore::new(limits::WATCHES_MAX)),
        }
    }

    async fn set_paused(&self, name: String, paused: bool) -> Result<v1::Queue, Status> {
        let name = queue_name_from_proto("name", name)?;
        let view = self
            .handle
            .update_queue(name, move |options| options.paused = paused)
            .await
            .map_err(queue_error_to_status)?;
        let queue = &*view.definition.name;
        tracing::info!(queue, paused, "paused or resumed");
        Ok(queue_to_proto(&view))
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    type WatchStatsStream = StatsStream;

    async fn create_queue(
        &self,
        request: Request<v1::CreateQueueRequest>,
    ) -> Result<Response<v1::CreateQueueResponse>, Status> {
        let v1::CreateQueueRequest { name, options } = request.into_inner();
        let name = new_queue_name_from_proto("name", name)?;
        let options = new_queue_options_from_proto(options)?;
        let created = self.handle.create_queue(name, options).await;
        let (view, created) = created.map_err(queue_error_to_status)?;
        if created {
            tracing::info!(queue = &*view.definition.name, "created");
        }
        let queue = Some(queue_to_proto(&view));
        Ok(Response::new(v1::CreateQueueResponse { queue, created }))
    }

    async fn update_queue(
        &self,
        request: Request<v1::UpdateQueueRequest>,
    ) -> Result<Response<v1::UpdateQueueResponse>, Status> {
        let v1::UpdateQueueRequest {
            name,
            options,
            update_mask,
        } = request.into_inner();
        let name = queue_name_from_proto("name", name)?;
        let change = options_change_from_proto(options, update_mask)?;
        let view = self
            .handle
            .update_queue(name, change)
            .await
            .map_err(queue_error_to_status)?;
        tracing::info!(queue = &*view.definition.name, "updated");
        Ok(Response::new(v1::UpdateQueueResponse {
            queue: Some(queue_to_proto(&view)),
        }))
    }

    async fn delete_queue(
        &self,
        request: Request<v1::DeleteQueueRequest>,
    ) -> Result<Response<v1::DeleteQueueResponse>, Status> {
        let v1::DeleteQueueRequest { name, if_empty } = request.into_inner();
        let name = queue_name_from_proto("name", name)?;
        let deleted = self.handle.delete_queue(name.clone(), if_empty).await;
        let (entries, dead_letters) = deleted.map_err(queue_error_to_status)?;
        tracing::info!(queue = name, entries, dead_letters, "deleted");
        Ok(Response::new(v1::DeleteQueueResponse {
            entries,
            dead_letters,
        }))
    }

    async fn get_queue(
        &self,
        request: Request<v1::GetQueueRequest>,
    ) -> Result<Response<v1::GetQueueResponse>, Status> {
        let way = Way::of(request.extensions());
        let name = queue_name_from_proto("name", request.into_inner().name)?;
        let view = way.page(&self.answers, self.handle.get_queue(name)).await;
        let view = view.map_err(queue_error_to_status)?;
        Ok(Response::new(v1::GetQueueResponse {
            queue: Some(queue_to_proto(&view)),
        }))
    }

    async fn list_queues(
        &self,
        request: Request<v1::ListQueuesRequest>,
    ) -> Result<Response<v1::ListQueuesResponse>, Status> {
        let way = Way::of(request.extensions());
        let (prefix, after, size) = page_from_proto(request.into_inner())?;
        // One more than asked for tells whether there is more.
        let listed = self.handle.list_queues(prefix, after, size + 1);
        let views = way.page(&self.answers, listed).await;
        let views = views.map_err(queue_error_to_status)?;
        let (queues, all) = watch::queues_to_proto(&views[..views.len().min(size)]);
        let next_page_token = match queues.last() {
            Some(last) if !all || views.len() > size => last.name.clone(),
            _ => String::new(),
        };
        Ok(Response::new(v1::ListQueuesResponse {
            queues,
            next_page_token,
        }))
    }

    async fn purge_queue(
        &self,
        request: Request<v1::PurgeQueueRequest>,
    ) -> Result<Response<v1::PurgeQueueResponse>, Status> {
        let v1::PurgeQueueRequest { name, limit } = request.into_inner();
        let name = queue_name_from_proto("name", name)?;
        let purged = self
            .handle
            .purge_queue(name.clone(), (limit > 0).then_some(limit))
            .await;
        let purged = purged.map_err(queue_error_to_status)?;
        tracing::info!(queue = name, purged, "purged");
        Ok(Response::new(v1::PurgeQueueResponse { purged }))
    }

    async fn pause_queue(
        &self,
        request: Request<v1::PauseQueueRequest>,
    ) -> Result<Response<v1::PauseQueueResponse>, Status> {
        let queue = Some(self.set_paused(request.into_inner().name, true).await?);
        Ok(Response::new(v1::PauseQueueResponse { queue }))
    }

    async fn resume_queue(
        &self,
        request: Request<v1::ResumeQueueRequest>,
    ) -> Result<Response<v1::ResumeQueueResponse>, Status> {
        let queue = Some(self.set_paused(request.into_inner().name, false).await?);
        Ok(Response::new(v1::ResumeQueueResponse { queue }))
    }

    async fn peek_entries(
        &self,
        request: Request<v1::PeekEntriesRequest>,
    ) -> Result<Response<v1::PeekEntriesResponse>, Status> {
        let way = Way::of(request.extensions());
        let request = request.into_inner();
        let without_payload = request.without_payload;
        let (queue, peek) = peek_from_proto(request)?;
        let peeked = way.page(&self.answers, self.handle.peek(queue, peek)).await;
        let peeked = peeked.map_err(queue_error_to_status)?;
        let entries = peeked_to_proto(&peeked, without_payload);
        Ok(Response::new(v1::PeekEntriesResponse { entries }))
    }

    async fn redrive_entries(
        &self,
        request: Request<v1::RedriveEntriesRequest>,
    ) -> Result<Response<v1::RedriveEntriesResponse>, Status> {
        let redrive = redrive_from_proto(request.into_inner())?;
        let (queue, dry_run) = (redrive.queue.clone(), redrive.dry_run);
        let redriven = self
            .handle
            .redrive(redrive)
            .await
            .map_err(queue_error_to_status)?;
        if !dry_run {
            tracing::info!(queue, entries = redriven.moved, "redriven");
        }
        Ok(Response::new(v1::RedriveEntriesResponse {
            redriven: redriven.moved,
            last_entry_id: redriven.last.0,
        }))
    }

    async fn watch_stats(
        &self,
        request: Request<v1::WatchStatsRequest>,
    ) -> Result<Response<StatsStream>, Status> {
        let way = Way::of(request.extensions());
        let names = watched_from_proto(request.into_inner())?;
        let place = Arc::clone(&self.watches).try_acquire_owned();
        let place = place.map_err(|_| too_many_watches())?;
        let (handle, answers) = (self.handle.clone(), self.answers.clone());
        let watched = watch::watch(handle, answers, way, names, place).await?;
        Ok(Response::new(watched))
    }

    async fn get_server_info(
        &self,
        _request: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::GetServerInfoResponse>, Status> {
        let info = self.handle.info().await.map_err(queue_error_to_status)?;
        Ok(Response::new(server_info_to_proto(&info, &self.options)))
    }
}
