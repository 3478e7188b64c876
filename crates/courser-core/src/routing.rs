//! Which queues a topic goes to.
//!
//! Patterns form a trie of tokens: what a topic costs depends on its tokens, not on the number of
//! bindings. Routes of recent topics are remembered until a binding changes.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::{id::QueueId, limits::ROUTE_CACHE_TOPICS_MAX, name::Pattern};

const ROOT: usize = 0;

/// All bindings.
#[derive(Debug)]
pub(crate) struct Routing {
    nodes: Vec<Node>,
    /// Every binding, for building the trie anew.
    bindings: FxHashMap<(Pattern, QueueId), ()>,
    /// Bindings removed since the trie was built: their nodes are still there.
    removed: usize,
    cache: FxHashMap<Box<str>, Arc<[QueueId]>>,
}

#[derive(Debug, Default)]
struct Node {
    children: FxHashMap<Box<str>, usize>,
    /// After `*`.
    one: Option<usize>,
    /// After `#`: also reached without any token, and left by none.
    many: Option<usize>,
    /// This node stands for a `#`.
    is_many: bool,
    queues: Vec<QueueId>,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
            bindings: FxHashMap::default(),
            removed: 0,
            cache: FxHashMap::default(),
        }
    }
}

impl Routing {
    /// Routes what `pattern` matches to `queue`. Doing it twice is doing it once.
    pub(crate) fn bind(&mut self, pattern: &Pattern, queue: QueueId) {
        if self.bindings.insert((pattern.clone(), queue), ()).is_none() {
            self.insert(pattern, queue);
            self.cache.clear();
        }
    }

    /// Ends a binding.
    pub(crate) fn unbind(&mut self, pattern: &Pattern, queue: QueueId) {
        if self.bindings.remove(&(pattern.clone(), queue)).is_none() {
            return;
        }
        self.cache.clear();
        // Once: another pattern that means the same may lead to this node too.
        if let Some(node) = self.find(pattern)
            && let Some(at) = self.nodes[node].queues.iter().position(|id| *id == queue)
        {
            self.nodes[node].queues.swap_remove(at);
        }
        self.removed += 1;
        if self.removed > 1_000 + self.bindings.len() {
            self.rebuild();
        }
    }

    /// The queues that `topic` goes to, in ascending order, each once.
    pub(crate) fn route(&mut self, topic: &str) -> Arc<[QueueId]> {
        if let Some(queues) = self.cache.get(topic) {
            return Arc::clone(queues);
        }
        let queues: Arc<[QueueId]> = self.matches(topic).into();
        if self.cache.len() >= ROUTE_CACHE_TOPICS_MAX {
            self.cache.clear();
        }
        self.cache.insert(topic.into(), Arc::clone(&queues));
        queues
    }

    /// Walks all branches at once: a set of nodes for each token, so that patterns with many `#` cost
    /// no more than the nodes there are.
    fn matches(&self, topic: &str) -> Vec<QueueId> {
        let mut here = vec![ROOT];
        self.enter_many(&mut here);
        for token in topic.split('.') {
            let mut next = Vec::with_capacity(here.len() + 2);
            for index in here {
                let node = &self.nodes[index];
                next.extend(node.children.get(token).copied());
                next.extend(node.one);
                next.extend(node.is_many.then_some(index));
            }
            self.enter_many(&mut next);
            here = next;
        }
        let mut queues: Vec<_> = here
            .into_iter()
            .flat_map(|index| self.nodes[index].queues.iter().copied())
            .collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    /// Adds the nodes after a `#` that is reached without a token, and drops doubles.
    fn enter_many(&self, nodes: &mut Vec<usize>) {
        let mut at = 0;
        while at < nodes.len() {
            nodes.extend(self.nodes[nodes[at]].many);
            at += 1;
        }
        nodes.sort_unstable();
        nodes.dedup();
    }

    fn insert(&mut self, pattern: &Pattern, queue: QueueId) {
        let mut at = ROOT;
        for token in pattern.tokens() {
            at = self.child(at, token);
        }
        self.nodes[at].queues.push(queue);
    }

    fn child(&mut self, at: usize, token: &str) -> usize {
        let new = self.nodes.len();
        let node = &mut self.nodes[at];
        let child = match token {
            "*" => *node.one.get_or_insert(new),
            // "#.#" matches what "#" does.
            "#" if node.is_many => at,
            "#" => *node.many.get_or_insert(new),
            _ => *node.children.entry(token.into()).or_insert(new),
        };
        if child == new {
            self.nodes.push(Node {
                is_many: token == "#",
                ..Node::default()
            });
        }
        child
    }

    fn find(&self, pattern: &Pattern) -> Option<usize> {
        pattern.tokens().try_fold(ROOT, |at, token| {
            let node = &self.nodes[at];
            match token {
                "*" => node.one,
                "#" if node.is_many => Some(at),
                "#" => node.many,
                _ => node.children.get(token).copied(),
            }
        })
    }

    fn rebuild(&mut self) {
        self.nodes = vec![Node::default()];
        self.removed = 0;
        let bindings: Vec<_> = self.bindings.keys().cloned().collect();
        for (pattern, queue) in bindings {
            self.insert(&pattern, queue);
        }
    }
}

#[cfg(test)]
mod tests;
