//! Names to registers and addresses while an entry is lowered; constants; the layout of memory that it declares.

use std::collections::HashMap;

use super::LoadError;
use super::ast::{Bits, Space, Variable};
use super::code::{Bank, Code, Register, Special};

#[derive(Clone, Copy, Debug)]
pub(super) enum Name {
    Register { register: Register, bits: Bits },
    Variable { space: Space, address: u64, size: usize },
}

#[derive(Debug, Default)]
pub(super) struct Names {
    scopes: Vec<HashMap<String, Name>>,
    constants: HashMap<(Bank, u64), Register>,
    specials: HashMap<Special, Register>,
}

pub(super) fn align(at: usize, to: usize) -> usize {
    at.next_multiple_of(to.max(1))
}

impl Names {
    pub(super) fn open(&mut self) {
        self.scopes.push(HashMap::new());
    }

    pub(super) fn close(&mut self) {
        self.scopes.pop();
    }

    /// Hides all scopes but the module's from a function that is inlined; they come back with [`Self::leave`].
    pub(super) fn enter(&mut self) -> Vec<HashMap<String, Name>> {
        let hidden = self.scopes.split_off(1);
        self.open();
        hidden
    }

    pub(super) fn leave(&mut self, hidden: Vec<HashMap<String, Name>>) {
        self.scopes.truncate(1);
        self.scopes.extend(hidden);
    }

    pub(super) fn declare(&mut self, line: usize, text: &str, name: Name) -> Result<(), LoadError> {
        let scope = self.scopes.last_mut().expect("a scope is open");
        match scope.insert(text.into(), name) {
            None => Ok(()),
            Some(_) => Err(LoadError { line, message: format!("{text} is declared twice") }),
        }
    }

    pub(super) fn find(&self, text: &str) -> Option<Name> {
        self.scopes.iter().rev().find_map(|scope| scope.get(text)).copied()
    }

    pub(super) fn constant(&mut self, code: &mut Code, bank: Bank, value: u64) -> Register {
        *self.constants.entry((bank, value)).or_insert_with(|| {
            let register = fresh(code, bank);
            code.constants.push((register, value));
            register
        })
    }

    pub(super) fn special(&mut self, code: &mut Code, text: &str) -> Option<Register> {
        let special = special(text)?;
        Some(*self.specials.entry(special).or_insert_with(|| {
            let register = fresh(code, Bank::Word);
            code.specials.push((register, special));
            register
        }))
    }
}

pub(super) fn fresh(code: &mut Code, bank: Bank) -> Register {
    let count = match bank {
        Bank::Word => &mut code.words,
        Bank::Double => &mut code.doubles,
        Bank::Predicate => &mut code.predicates,
    };
    *count += 1;
    Register { bank, index: (*count - 1) as u16 }
}

pub(super) fn bank_of(bits: Bits) -> Bank {
    match bits {
        1 => Bank::Predicate,
        64 => Bank::Double,
        _ => Bank::Word,
    }
}

fn special(text: &str) -> Option<Special> {
    let axis = |text: &str| ["x", "y", "z"].iter().position(|axis| *axis == text);
    if let Some((name, rest)) = text.split_once('.') {
        let axis = axis(rest)?;
        return Some(match name {
            "%tid" => Special::Thread(axis),
            "%ntid" => Special::BlockSize(axis),
            "%ctaid" => Special::Block(axis),
            "%nctaid" => Special::GridSize(axis),
            _ => return None,
        });
    }
    Some(match text {
        "%laneid" => Special::Lane,
        "%warpid" => Special::Warp,
        "%nwarpid" => Special::Warps,
        "%lanemask_eq" => Special::LanesEqual,
        "%lanemask_lt" => Special::LanesBelow,
        "%lanemask_le" => Special::LanesUpTo,
        "%lanemask_gt" => Special::LanesAbove,
        "%lanemask_ge" => Special::LanesFrom,
        _ => return None,
    })
}

/// Where a variable of one memory space goes; `end` moves behind it.
pub(super) fn place(variable: &Variable, end: &mut usize) -> Name {
    let address = align(*end, variable.align);
    *end = address + variable.size;
    Name::Variable { space: variable.space, address: address as u64, size: variable.size }
}
