//! What a tag of the shadow stands for.

use super::Scope;

/// One instruction of one warp between two synchronisations of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Event {
    /// Of the block, counted through all launches.
    pub(crate) block: u32,
    pub(crate) warp: u32,
    /// Barriers that the block had passed.
    pub(crate) epoch: u32,
    /// Synchronisations that the warp had passed.
    pub(crate) tick: u32,
    /// Index of the instruction.
    pub(crate) at: u32,
    /// The scope of a strong operation: one that the other side may be in conflict with, if it is strong too.
    pub(crate) strong: Option<Scope>,
    /// Bytes of one element.
    pub(crate) size: u8,
}

/// When the numbers of events start over, at the next launch.
const START_OVER: usize = 1 << 22;
/// What the 27 bits of a tag can tell apart.
const MAX_EVENTS: usize = 1 << 27;

/// All events since the numbers last started over.
#[derive(Debug)]
pub(crate) struct Events {
    list: Vec<Event>,
    first_of_launch: u32,
    blocks: u32,
}

impl Default for Events {
    fn default() -> Self {
        // Tag 0 is nobody's.
        Self { list: vec![Event::default()], first_of_launch: 1, blocks: 0 }
    }
}

impl Events {
    /// True where the numbers start over, and all shadows must be forgotten.
    pub(super) fn begin_launch(&mut self) -> bool {
        let over = self.list.len() > START_OVER;
        if over {
            self.list.truncate(1);
        }
        self.first_of_launch = self.list.len() as u32;
        over
    }

    pub(crate) fn begin_block(&mut self) -> u32 {
        self.blocks = self.blocks.wrapping_add(1);
        self.blocks
    }

    pub(crate) fn add(&mut self, event: Event) -> u32 {
        // A launch that runs out of numbers altogether shares the last one with itself: it finds less.
        if self.list.len() < MAX_EVENTS {
            self.list.push(event);
        }
        self.list.len() as u32 - 1
    }

    pub(crate) fn get(&self, number: u32) -> &Event {
        &self.list[number as usize]
    }

    pub(crate) fn first_of_launch(&self) -> u32 {
        self.first_of_launch
    }

    pub(crate) fn next(&self) -> u32 {
        self.list.len() as u32
    }
}
