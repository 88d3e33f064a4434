//! Tokens to a tree: what stands in a body.

use super::ast::{Instruction, Operand, Statement};
use super::lexer::Token;
use super::parse::{Parser, Result, size_of};

impl Parser {
    pub(super) fn statement(&mut self, into: &mut Vec<Statement>) -> Result<()> {
        match self.peek_word() {
            Some(".reg") => self.registers(into),
            Some(".shared" | ".local" | ".param") => {
                into.push(Statement::Variable(self.variable()?));
                self.expect(';')
            }
            Some(".pragma") => {
                self.word()?;
                match self.next()? {
                    // The second says which bytes of the next load matter: a hint, and the others are there too.
                    Token::Text(text) if text == "nounroll" || is_used_bytes_mask(&text) => self.expect(';'),
                    other => self.fail(format!("unknown pragma {other:?}")),
                }
            }
            Some(".loc") => self.location(),
            Some(word) if word.starts_with('.') => self.fail(format!("unknown directive {word}")),
            _ => self.instruction_or_label(into),
        }
    }

    /// `.loc 1 12 3`, perhaps `, function_name $L__info, inlined_at 1 3 4`.
    fn location(&mut self) -> Result<()> {
        self.word()?;
        for _ in 0..3 {
            self.count()?;
        }
        while self.take(',') {
            match self.word()?.as_str() {
                "function_name" => {
                    self.word()?;
                    if self.take('+') {
                        self.count()?;
                    }
                }
                "inlined_at" => {
                    for _ in 0..3 {
                        self.count()?;
                    }
                }
                other => return self.fail(format!("unknown part {other} of .loc")),
            }
        }
        Ok(())
    }

    fn registers(&mut self, into: &mut Vec<Statement>) -> Result<()> {
        self.word()?;
        let kind = self.word()?;
        let bits = match size_of(&kind) {
            _ if kind == ".pred" => 1,
            Some(1) | None => return self.fail(format!("registers of type {kind}")),
            Some(size) => size as u32 * 8,
        };
        loop {
            let line = self.line();
            let name = self.word()?;
            if !name.starts_with('%') && !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
                return self.fail(format!("{name} is no name of a register"));
            }
            let mut count = None;
            if self.take('<') {
                count = Some(self.count()? as u32);
                self.expect('>')?;
            }
            into.push(Statement::Registers { line, bits, name, count });
            if !self.take(',') {
                return self.expect(';');
            }
        }
    }

    fn instruction_or_label(&mut self, into: &mut Vec<Statement>) -> Result<()> {
        let mut guard = None;
        if self.take('@') {
            let not = self.take('!');
            guard = Some((not, self.word()?));
        }
        let line = self.line();
        let opcode = self.word()?;
        if guard.is_none() && self.take(':') {
            into.push(Statement::Label { line, text: opcode });
            return Ok(());
        }
        let mut operands = Vec::new();
        while !self.take(';') {
            if !operands.is_empty() {
                self.expect(',')?;
            }
            operands.push(self.operand()?);
        }
        into.push(Statement::Instruction(Instruction { line, guard, opcode, operands }));
        Ok(())
    }

    fn operand(&mut self) -> Result<Operand> {
        let first = self.simple_operand()?;
        if self.take('|') {
            return Ok(Operand::Pair(Box::new(first), Box::new(self.simple_operand()?)));
        }
        Ok(first)
    }

    fn simple_operand(&mut self) -> Result<Operand> {
        match self.peek() {
            Some(Token::Symbol('!')) => {
                self.next()?;
                Ok(Operand::Not(self.word()?))
            }
            Some(Token::Symbol('[')) => {
                self.next()?;
                let base = self.word()?;
                let mut offset = 0;
                if self.take('+') {
                    offset = self.offset()?;
                }
                self.expect(']')?;
                Ok(Operand::Address { base, offset })
            }
            Some(Token::Symbol('{')) => Ok(Operand::Vector(self.sequence('{', '}')?)),
            Some(Token::Symbol('(')) => Ok(Operand::List(self.sequence('(', ')')?)),
            Some(Token::Word(word)) if word == "_" => {
                self.next()?;
                Ok(Operand::Sink)
            }
            Some(Token::Word(_)) => Ok(Operand::Name(self.word()?)),
            Some(Token::Number(_) | Token::Symbol('-')) => self.literal(),
            other => self.fail(format!("unknown operand {other:?}")),
        }
    }

    fn sequence(&mut self, open: char, close: char) -> Result<Vec<Operand>> {
        self.expect(open)?;
        let mut operands = Vec::new();
        while !self.take(close) {
            if !operands.is_empty() {
                self.expect(',')?;
            }
            operands.push(self.simple_operand()?);
        }
        Ok(operands)
    }

    fn offset(&mut self) -> Result<i64> {
        match self.literal()? {
            Operand::Integer(value) if i64::try_from(value).is_ok() => Ok(value as i64),
            other => self.fail(format!("{other:?} is no offset")),
        }
    }

    fn literal(&mut self) -> Result<Operand> {
        let negative = self.take('-');
        let Token::Number(text) = self.next()? else { return self.fail("expected a number") };
        let lower = text.to_ascii_lowercase();
        let parsed = if let Some(hex) = lower.strip_prefix("0x") {
            i128::from_str_radix(hex.trim_end_matches('u'), 16).ok().map(Operand::Integer)
        } else if let Some(hex) = lower.strip_prefix("0f").filter(|hex| hex.len() == 8) {
            u32::from_str_radix(hex, 16).ok().map(Operand::Float)
        } else if let Some(hex) = lower.strip_prefix("0d").filter(|hex| hex.len() == 16) {
            u64::from_str_radix(hex, 16).ok().map(Operand::Double)
        } else if lower.len() > 1 && lower.starts_with('0') {
            None // octal and binary: NVRTC writes neither
        } else {
            lower.trim_end_matches('u').parse().ok().map(Operand::Integer)
        };
        match parsed {
            Some(Operand::Integer(value)) => Ok(Operand::Integer(if negative { -value } else { value })),
            Some(float) if !negative => Ok(float),
            _ => self.fail(format!("unknown number {text}")),
        }
    }

    /// One initial value of a variable of this type.
    pub(super) fn literal_bytes(&mut self, kind: &str, unit: usize) -> Result<Vec<u8>> {
        match (self.literal()?, kind) {
            (Operand::Float(bits), ".f32") => Ok(bits.to_le_bytes().to_vec()),
            (Operand::Double(bits), ".f64") => Ok(bits.to_le_bytes().to_vec()),
            (Operand::Integer(value), kind) if !kind.starts_with(".f") => {
                let bits = 8 * unit as u32;
                if value < -(1 << (bits - 1)) || value >= 1 << bits {
                    return self.fail(format!("{value} does not fit {kind}"));
                }
                Ok(value.to_le_bytes()[..unit].to_vec())
            }
            (value, _) => self.fail(format!("{value:?} as an initial {kind}")),
        }
    }
}

/// `used_bytes_mask`, and a mask of bytes.
fn is_used_bytes_mask(text: &str) -> bool {
    let mask = text.strip_prefix("used_bytes_mask ").map(str::trim);
    mask.is_some_and(|mask| match mask.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).is_ok(),
        None => mask.parse::<u64>().is_ok(),
    })
}
