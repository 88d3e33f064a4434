//! PTX text to a [`Module`].

pub(crate) mod ast;
pub(crate) mod code;
mod lexer;
mod lower;
mod names;
mod parse;
mod select;
mod select_memory;
mod select_sync;
mod statement;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::memory::module_base;
use ast::{Space, Tree};
use code::Code;
use names::{Name, place};

/// Why a module was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// The line of the PTX text, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for LoadError {}

/// A parsed module.
#[derive(Debug)]
pub struct Module {
    /// `.version`, major and minor.
    pub version: (u32, u32),
    /// The number of `.target sm_N` (90 for `sm_90` and `sm_90a`).
    pub target: u32,
    /// The entries.
    pub kernels: Vec<Kernel>,
    /// Tells modules apart for as long as the process runs.
    pub(crate) id: u64,
    /// The initial values of `.global` variables.
    pub(crate) globals: Vec<u8>,
    /// `.const` variables.
    pub(crate) constants: Vec<u8>,
}

/// An entry.
#[derive(Debug)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// Offset and size in bytes of each parameter in the parameter block.
    pub parameters: Vec<(usize, usize)>,
    /// Bytes of static shared memory.
    pub static_shared: usize,
    pub(crate) code: Code,
}

impl Kernel {
    /// The most threads a block may have: what `.maxntid` or `.reqntid` say, else 1024.
    pub fn max_threads(&self) -> u32 {
        let exact = self.code.exact_threads.map(|threads| threads.iter().product());
        exact.or(self.code.max_threads).unwrap_or(1024)
    }

    /// Bytes of local memory of a thread.
    pub fn local_bytes(&self) -> usize {
        self.code.frame
    }
}

impl Module {
    /// Parses and checks the text of a module.
    ///
    /// # Errors
    /// Anything that is not known exactly.
    pub fn parse(text: &str) -> Result<Self, LoadError> {
        static MODULES: AtomicU64 = AtomicU64::new(1);
        let tree = parse::Parser::new(text)?.module()?;
        let id = MODULES.fetch_add(1, Ordering::Relaxed);
        let (globals, names) = variables(&tree, id);
        let (mut kernels, constants) = (Vec::new(), globals.1);
        for function in tree.functions.iter().filter(|function| function.entry) {
            if kernels.iter().any(|kernel: &Kernel| kernel.name == function.name) {
                return lower::fail(function.line, format!("a second entry {}", function.name));
            }
            kernels.push(lower::lower(&tree, function, &names)?);
        }
        Ok(Self { version: tree.version, target: tree.target, kernels, id, globals: globals.0, constants })
    }

    /// The entry of this name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }
}

type Images = (Vec<u8>, Vec<u8>);

/// Lays out what the module declares; a variable without initial values is zero (PTX ISA, initializers).
fn variables(tree: &Tree, module: u64) -> (Images, Vec<(String, Name)>) {
    let (mut globals, mut constants, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for variable in &tree.variables {
        let image: &mut Vec<u8> = match variable.space {
            Space::Global => &mut globals,
            Space::Const => &mut constants,
            _ => continue,
        };
        let mut end = image.len();
        let mut name = place(variable, &mut end);
        if let Name::Variable { space: Space::Global, address, .. } = &mut name {
            *address += module_base(module);
        }
        image.resize(end - variable.size, 0);
        image.extend(variable.initial.clone().unwrap_or_else(|| vec![0; variable.size]));
        names.push((variable.name.clone(), name));
    }
    ((globals, constants), names)
}
