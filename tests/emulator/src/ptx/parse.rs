//! Tokens to a tree: directives.

use super::LoadError;
use super::ast::{Function, Space, Statement, Tree, Variable};
use super::lexer::{Lexeme, Token, lex};

pub(super) struct Parser {
    tokens: Vec<Lexeme>,
    at: usize,
}

pub(super) type Result<T> = std::result::Result<T, LoadError>;

/// The type of a variable or a register: its size in bytes. Predicates are not among them.
pub(super) fn size_of(kind: &str) -> Option<usize> {
    Some(match kind {
        ".b8" | ".u8" | ".s8" => 1,
        ".b16" | ".u16" | ".s16" => 2,
        ".b32" | ".u32" | ".s32" | ".f32" => 4,
        ".b64" | ".u64" | ".s64" | ".f64" => 8,
        _ => return None,
    })
}

impl Parser {
    pub(super) fn new(text: &str) -> Result<Self> {
        Ok(Self { tokens: lex(text)?, at: 0 })
    }

    pub(super) fn line(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |lexeme| lexeme.line)
    }

    pub(super) fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(LoadError { line: self.line(), message: message.into() })
    }

    pub(super) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|lexeme| &lexeme.token)
    }

    pub(super) fn next(&mut self) -> Result<Token> {
        let Some(token) = self.peek().cloned() else { return self.fail("the text ends too early") };
        self.at += 1;
        Ok(token)
    }

    pub(super) fn is(&self, symbol: char) -> bool {
        self.peek() == Some(&Token::Symbol(symbol))
    }

    pub(super) fn take(&mut self, symbol: char) -> bool {
        let found = self.is(symbol);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, symbol: char) -> Result<()> {
        if self.take(symbol) {
            Ok(())
        } else {
            self.fail(format!("expected {symbol:?}, found {:?}", self.peek()))
        }
    }

    pub(super) fn word(&mut self) -> Result<String> {
        match self.peek() {
            Some(Token::Word(word)) => {
                let word = word.clone();
                self.at += 1;
                Ok(word)
            }
            other => self.fail(format!("expected a name, found {other:?}")),
        }
    }

    pub(super) fn peek_word(&self) -> Option<&str> {
        match self.peek() {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }

    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let found = self.peek_word() == Some(word);
        self.at += usize::from(found);
        found
    }

    pub(super) fn count(&mut self) -> Result<usize> {
        match self.peek() {
            Some(Token::Number(number)) => match number.parse() {
                Ok(count) => {
                    self.at += 1;
                    Ok(count)
                }
                Err(_) => self.fail(format!("expected a decimal number, found {number}")),
            },
            other => self.fail(format!("expected a number, found {other:?}")),
        }
    }

    fn version(&mut self) -> Result<(u32, u32)> {
        if let Some(Token::Number(number)) = self.peek()
            && let Some((major, minor)) = number.split_once('.')
            && let (Ok(major), Ok(minor)) = (major.parse(), minor.parse())
        {
            self.at += 1;
            return Ok((major, minor));
        }
        self.fail("expected a version, as in 9.4")
    }

    fn target(&mut self) -> Result<u32> {
        let word = self.word()?;
        let number = word.strip_prefix("sm_").map(|n| n.trim_end_matches(['a', 'f']));
        match number.and_then(|n| n.parse().ok()) {
            Some(number) => Ok(number),
            None => self.fail(format!("unknown target {word}")),
        }
    }

    pub(super) fn module(mut self) -> Result<Tree> {
        let mut tree = Tree::default();
        if !self.take_word(".version") {
            return self.fail("a module begins with .version");
        }
        tree.version = self.version()?;
        if !self.take_word(".target") {
            return self.fail(".target must follow .version");
        }
        tree.target = self.target()?;
        if !self.take_word(".address_size") {
            return self.fail(".address_size must follow .target");
        }
        if self.count()? != 64 {
            return self.fail("only .address_size 64");
        }
        while self.peek().is_some() {
            self.item(&mut tree)?;
        }
        Ok(tree)
    }

    fn item(&mut self, tree: &mut Tree) -> Result<()> {
        match self.peek_word() {
            Some(".visible" | ".weak" | ".func" | ".entry") => {
                let function = self.function()?;
                tree.functions.push(function);
            }
            Some(".extern" | ".global" | ".const" | ".shared") => {
                let variable = self.variable()?;
                self.expect(';')?;
                tree.variables.push(variable);
            }
            Some(".file") => {
                self.at += 1;
                self.count()?;
                match self.next()? {
                    Token::Text(_) => {}
                    other => return self.fail(format!("expected a file's name, found {other:?}")),
                }
            }
            other => return self.fail(format!("unknown directive {other:?}")),
        }
        Ok(())
    }

    fn function(&mut self) -> Result<Function> {
        let line = self.line();
        let visible = self.take_word(".visible") || self.take_word(".weak");
        let entry = self.take_word(".entry");
        if !entry && !self.take_word(".func") {
            return self.fail(format!(
                "unknown directive {:?}{}",
                self.peek(),
                if visible { " after .visible" } else { "" }
            ));
        }
        let results = if !entry && self.is('(') { self.parameters()? } else { Vec::new() };
        let name = self.word()?;
        let parameters = if self.is('(') { self.parameters()? } else { Vec::new() };
        let mut function = Function {
            line,
            name,
            entry,
            results,
            parameters,
            max_threads: None,
            exact_threads: None,
            body: None,
        };
        loop {
            match self.peek_word() {
                Some(".maxntid") => {
                    self.at += 1;
                    function.max_threads = Some(self.dimensions()?.iter().product());
                }
                Some(".reqntid") => {
                    self.at += 1;
                    function.exact_threads = Some(self.dimensions()?);
                }
                // Hints to the register allocator.
                Some(".minnctapersm" | ".maxnreg") => {
                    self.at += 1;
                    self.count()?;
                }
                Some(".noreturn") => return self.fail("unknown directive .noreturn"),
                _ => break,
            }
        }
        if self.take(';') {
            if entry {
                return self.fail("an entry without a body");
            }
            return Ok(function);
        }
        self.expect('{')?;
        function.body = Some(self.body()?);
        Ok(function)
    }

    fn dimensions(&mut self) -> Result<[u32; 3]> {
        let mut dimensions = [1; 3];
        for (i, dimension) in dimensions.iter_mut().enumerate() {
            if i > 0 && !self.take(',') {
                break;
            }
            *dimension = self.count()? as u32;
        }
        Ok(dimensions)
    }

    fn parameters(&mut self) -> Result<Vec<Variable>> {
        self.expect('(')?;
        let mut parameters = Vec::new();
        while !self.take(')') {
            if !parameters.is_empty() {
                self.expect(',')?;
            }
            if self.peek_word() != Some(".param") {
                return self.fail("a parameter that is not .param");
            }
            parameters.push(self.variable()?);
        }
        Ok(parameters)
    }

    /// `.shared .align 4 .b8 name[512]`, up to its end.
    pub(super) fn variable(&mut self) -> Result<Variable> {
        let external = self.take_word(".extern");
        let line = self.line();
        let space = match self.word()?.as_str() {
            ".global" => Space::Global,
            ".const" => Space::Const,
            ".shared" => Space::Shared,
            ".local" => Space::Local,
            ".param" => Space::Param,
            other => return self.fail(format!("unknown directive {other}")),
        };
        if external && space != Space::Shared {
            return self.fail("only shared memory may be .extern");
        }
        let mut align = None;
        if self.take_word(".align") {
            align = Some(self.count()?);
        }
        let kind = self.word()?;
        let Some(unit) = size_of(&kind) else { return self.fail(format!("unknown type {kind}")) };
        // `.param .u64 .ptr .global .align 4 name` says what the pointer points to.
        if space == Space::Param && self.take_word(".ptr") {
            if matches!(self.peek_word(), Some(".global" | ".const" | ".shared" | ".local")) {
                self.at += 1;
            }
            if self.take_word(".align") {
                self.count()?;
            }
        }
        let align = align.unwrap_or(unit);
        if !align.is_power_of_two() || align < unit {
            return self.fail(format!("alignment {align} of {kind}"));
        }
        let name = self.word()?;
        let mut size = unit;
        while self.take('[') {
            size = if external && self.is(']') { 0 } else { size * self.count()? };
            self.expect(']')?;
        }
        let initial = if self.take('=') { Some(self.initial(&kind, unit, size)?) } else { None };
        if initial.is_some() && !matches!(space, Space::Global | Space::Const) {
            return self.fail("only .global and .const have initial values");
        }
        Ok(Variable { line, space, name, align, size, initial, external })
    }

    fn initial(&mut self, kind: &str, unit: usize, size: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let braces = self.take('{');
        loop {
            bytes.extend(self.literal_bytes(kind, unit)?);
            if !braces || !self.take(',') {
                break;
            }
        }
        if braces {
            self.expect('}')?;
        }
        if bytes.len() > size {
            return self.fail("more initial values than the variable has room for");
        }
        bytes.resize(size, 0);
        Ok(bytes)
    }

    /// The statements of a body whose brace is open.
    fn body(&mut self) -> Result<Vec<Statement>> {
        let (mut statements, mut depth) = (Vec::new(), 1);
        loop {
            if self.take('{') {
                depth += 1;
                statements.push(Statement::Open);
            } else if self.take('}') {
                depth -= 1;
                if depth == 0 {
                    return Ok(statements);
                }
                statements.push(Statement::Close);
            } else {
                self.statement(&mut statements)?;
            }
        }
    }
}
