//! The tree of an entry to its code: statements in order, calls inlined.

use std::collections::HashMap;

use super::ast::{Function, Instruction, Operand, Space, Statement, Tree, Variable};
use super::code::{Bank, Code, Guard, Instruction as Lowered, Operation, Register};
use super::names::{Name, Names, align, bank_of, fresh, place};
use super::parse::Result;
use super::{Kernel, LoadError};

/// Calls within calls; PTX that recurses is refused.
const MAX_DEPTH: usize = 32;

pub(super) struct Lowering<'a> {
    tree: &'a Tree,
    pub(super) code: Code,
    pub(super) names: Names,
    labels: Vec<HashMap<String, u32>>,
    /// Branches whose label may follow: instruction, function instance, label, line.
    branches: Vec<(usize, usize, String, usize)>,
    instance: Vec<usize>,
    /// Where `ret` goes in an inlined function.
    returns: Vec<Vec<usize>>,
    shared: usize,
    dynamic_align: usize,
}

pub(super) fn fail<T>(line: usize, message: impl Into<String>) -> Result<T> {
    Err(LoadError { line, message: message.into() })
}

/// Where the module's own variables are, by name.
pub(super) fn lower(tree: &Tree, function: &Function, globals: &[(String, Name)]) -> Result<Kernel> {
    let mut lowering = Lowering {
        tree,
        code: Code {
            max_threads: function.max_threads,
            exact_threads: function.exact_threads,
            ..Code::default()
        },
        names: Names::default(),
        labels: Vec::new(),
        branches: Vec::new(),
        instance: Vec::new(),
        returns: Vec::new(),
        shared: 0,
        dynamic_align: 1,
    };
    // Register 0 of every entry: what unused operands read.
    lowering.names.constant(&mut lowering.code, Bank::Word, 0);
    lowering.names.open();
    for (text, name) in globals {
        lowering.names.declare(function.line, text, *name)?;
    }
    for variable in tree.variables.iter().filter(|v| v.space == Space::Shared && !v.external) {
        lowering.variable(variable)?;
    }
    lowering.names.open();
    let mut parameters = Vec::new();
    for parameter in &function.parameters {
        let name = place(parameter, &mut lowering.code.parameter_bytes);
        if let Name::Variable { address, size, .. } = name {
            parameters.push((address as usize, size));
        }
        lowering.names.declare(parameter.line, &parameter.name, name)?;
    }
    let body = function.body.as_deref().unwrap_or_default();
    lowering.externals(body)?;
    lowering.body(function.line, body)?;
    lowering.push(function.line, None, Operation::Exit);
    lowering.finish(function.line)?;
    let static_shared = align(lowering.shared, lowering.dynamic_align);
    let code = lowering.code;
    Ok(Kernel { name: function.name.clone(), parameters, static_shared, code })
}

impl Lowering<'_> {
    /// Static shared memory is placed whole before its end is anyone's address.
    fn externals(&mut self, body: &[Statement]) -> Result<()> {
        let externals: Vec<&Variable> = self.tree.variables.iter().filter(|v| v.external).collect();
        if externals.is_empty() {
            return Ok(());
        }
        let mut end = self.shared;
        for statement in body {
            if let Statement::Variable(variable) = statement
                && variable.space == Space::Shared
            {
                place(variable, &mut end);
            }
        }
        self.dynamic_align = externals.iter().map(|v| v.align).max().unwrap_or(1);
        let address = align(end, self.dynamic_align) as u64;
        for variable in externals {
            // Above the entry's own scope would hide it from functions; they may not use it.
            let name = Name::Variable { space: Space::Shared, address, size: 0 };
            self.names.declare(variable.line, &variable.name, name)?;
        }
        Ok(())
    }

    fn variable(&mut self, variable: &Variable) -> Result<()> {
        let mut name = match variable.space {
            Space::Shared => place(variable, &mut self.shared),
            // What a call passes lives in the frame too.
            Space::Local | Space::Param => place(variable, &mut self.code.frame),
            _ => return fail(variable.line, format!("{} may not be declared in a body", variable.name)),
        };
        if let Name::Variable { space, .. } = &mut name
            && *space == Space::Param
        {
            *space = Space::Local;
        }
        self.names.declare(variable.line, &variable.name, name)
    }

    fn body(&mut self, line: usize, statements: &[Statement]) -> Result<()> {
        if self.instance.len() == MAX_DEPTH {
            return fail(line, "calls too deep");
        }
        self.instance.push(self.labels.len());
        self.labels.push(HashMap::new());
        for statement in statements {
            match statement {
                Statement::Open => self.names.open(),
                Statement::Close => self.names.close(),
                Statement::Variable(variable) => self.variable(variable)?,
                Statement::Label { line, text } => {
                    let at = self.code.instructions.len() as u32;
                    let instance = self.instance[self.instance.len() - 1];
                    if self.labels[instance].insert(text.clone(), at).is_some() {
                        return fail(*line, format!("{text} stands twice"));
                    }
                }
                Statement::Registers { line, bits, name, count } => {
                    for i in 0..count.unwrap_or(1) {
                        let text = if count.is_some() { format!("{name}{i}") } else { name.clone() };
                        let register = fresh(&mut self.code, bank_of(*bits));
                        self.names.declare(*line, &text, Name::Register { register, bits: *bits })?;
                    }
                }
                Statement::Instruction(instruction) => self.instruction(instruction)?,
            }
        }
        self.instance.pop();
        Ok(())
    }

    fn instruction(&mut self, instruction: &Instruction) -> Result<()> {
        let line = instruction.line;
        let guard = match &instruction.guard {
            None => None,
            Some((not, text)) => match self.names.find(text) {
                Some(Name::Register { register, bits: 1 }) => Some(Guard { predicate: register, not: *not }),
                _ => return fail(line, format!("{text} is no predicate")),
            },
        };
        match instruction.opcode.as_str() {
            "call" | "call.uni" => {
                if guard.is_some() {
                    return fail(line, "a call under a predicate");
                }
                self.call(instruction)
            }
            "ret" | "ret.uni" | "exit" => {
                if !instruction.operands.is_empty() {
                    return fail(line, "operands of ret");
                }
                let at = self.code.instructions.len();
                let operation = match self.returns.last_mut() {
                    Some(returns) if instruction.opcode != "exit" => {
                        returns.push(at);
                        Operation::Branch { target: 0 }
                    }
                    _ => Operation::Exit,
                };
                self.push(line, guard, operation);
                Ok(())
            }
            "bra" | "bra.uni" => {
                let [Operand::Name(label)] = instruction.operands.as_slice() else {
                    return fail(line, "bra takes one label");
                };
                let instance = self.instance[self.instance.len() - 1];
                self.branches.push((self.code.instructions.len(), instance, label.clone(), line));
                self.push(line, guard, Operation::Branch { target: 0 });
                Ok(())
            }
            _ => {
                let operation = self.select(instruction)?;
                self.push(line, guard, operation);
                Ok(())
            }
        }
    }

    fn push(&mut self, line: usize, guard: Option<Guard>, operation: Operation) {
        self.code.instructions.push(Lowered { line: line as u32, guard, operation });
    }

    fn call(&mut self, instruction: &Instruction) -> Result<()> {
        let line = instruction.line;
        let none = Vec::new();
        let (results, text, arguments) = match instruction.operands.as_slice() {
            [Operand::Name(text)] => (&none, text, &none),
            [Operand::Name(text), Operand::List(arguments)] => (&none, text, arguments),
            [Operand::List(results), Operand::Name(text)] => (results, text, &none),
            [Operand::List(results), Operand::Name(text), Operand::List(arguments)] => {
                (results, text, arguments)
            }
            _ => return fail(line, "unknown form of call"),
        };
        let tree = self.tree;
        let Some(function) = tree.functions.iter().find(|f| f.name == *text && !f.entry && f.body.is_some())
        else {
            return fail(line, format!("no function {text}"));
        };
        if results.len() != function.results.len() || arguments.len() != function.parameters.len() {
            return fail(line, format!("{text} takes other arguments"));
        }
        let mut bound = Vec::new();
        let formals = function.results.iter().chain(&function.parameters);
        for (formal, actual) in formals.zip(results.iter().chain(arguments)) {
            let Operand::Name(actual) = actual else { return fail(line, "an argument that is not a .param") };
            match self.names.find(actual) {
                Some(name @ Name::Variable { space: Space::Local, size, .. }) if size == formal.size => {
                    bound.push((formal, name));
                }
                _ => return fail(line, format!("{actual} is no .param of {} bytes", formal.size)),
            }
        }
        let hidden = self.names.enter();
        for (formal, name) in bound {
            self.names.declare(formal.line, &formal.name, name)?;
        }
        self.returns.push(Vec::new());
        self.body(line, function.body.as_deref().unwrap_or_default())?;
        let end = self.code.instructions.len() as u32;
        for at in self.returns.pop().unwrap_or_default() {
            self.code.instructions[at].operation = Operation::Branch { target: end };
        }
        self.names.leave(hidden);
        Ok(())
    }

    fn finish(&mut self, line: usize) -> Result<()> {
        for (at, instance, label, of) in std::mem::take(&mut self.branches) {
            let Some(&target) = self.labels[instance].get(&label) else {
                return fail(of, format!("no label {label}"));
            };
            self.code.instructions[at].operation = Operation::Branch { target };
        }
        if self.code.words.max(self.code.doubles).max(self.code.predicates) > usize::from(u16::MAX) {
            return fail(line, "too many registers");
        }
        self.code.passes = self.code.instructions.iter().any(|instruction| instruction.operation.passes());
        let (words, doubles) = (self.code.words as u16, self.code.doubles as u16);
        for instruction in &mut self.code.instructions {
            if let Operation::Compute(compute) = &mut instruction.operation {
                // `select` left each bank's number; the total of registers is known only now.
                for (read, bank) in compute.reads.iter_mut().zip(compute.banks) {
                    *read += match bank {
                        Bank::Word => 0,
                        Bank::Double => words,
                        Bank::Predicate => words + doubles,
                    };
                }
            }
        }
        Ok(())
    }
}

/// Bits of a register, if this is one.
pub(super) fn register(name: Option<Name>) -> Option<(Register, u32)> {
    match name {
        Some(Name::Register { register, bits }) => Some((register, bits)),
        _ => None,
    }
}
