//! Text to tokens.

use super::LoadError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A name, an opcode with its modifiers, a directive: whatever is joined by dots.
    Word(String),
    /// Begins with a digit; what it means depends on where it stands.
    Number(String),
    Text(String),
    Symbol(char),
}

#[derive(Debug)]
pub(super) struct Lexeme {
    pub(super) token: Token,
    pub(super) line: usize,
}

fn in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%' | '.')
}

pub(super) fn lex(text: &str) -> Result<Vec<Lexeme>, LoadError> {
    let chars: Vec<char> = text.chars().collect();
    let (mut tokens, mut line, mut i) = (Vec::new(), 1, 0);
    while i < chars.len() {
        let c = chars[i];
        let next = chars.get(i + 1).copied();
        let start = i;
        let token = match c {
            '\n' => {
                line += 1;
                i += 1;
                continue;
            }
            // A driver is given the text with its NUL.
            c if c.is_whitespace() || c == '\0' => {
                i += 1;
                continue;
            }
            '/' if next == Some('/') => {
                while i < chars.len() && chars[i] != '\n' {
                    i += 1;
                }
                continue;
            }
            '/' if next == Some('*') => {
                while i < chars.len() && !(chars[i] == '*' && chars.get(i + 1) == Some(&'/')) {
                    line += usize::from(chars[i] == '\n');
                    i += 1;
                }
                i += 2;
                continue;
            }
            '"' => {
                i += 1;
                while i < chars.len() && chars[i] != '"' && chars[i] != '\n' {
                    i += 1;
                }
                if chars.get(i) != Some(&'"') {
                    return Err(LoadError { line, message: "a text without its end".into() });
                }
                i += 1;
                Token::Text(chars[start + 1..i - 1].iter().collect())
            }
            c if in_word(c) => {
                // `.L2::128B` is one modifier.
                while i < chars.len()
                    && (in_word(chars[i])
                        || chars[i] == ':' && (chars.get(i + 1) == Some(&':') || chars[i - 1] == ':'))
                {
                    i += 1;
                }
                let word = chars[start..i].iter().collect();
                if c.is_ascii_digit() { Token::Number(word) } else { Token::Word(word) }
            }
            '(' | ')' | '[' | ']' | '{' | '}' | '<' | '>' | ',' | ';' | ':' | '=' | '+' | '-' | '@' | '!'
            | '|' => {
                i += 1;
                Token::Symbol(c)
            }
            c => return Err(LoadError { line, message: format!("unknown character {c:?}") }),
        };
        tokens.push(Lexeme { token, line });
    }
    Ok(tokens)
}
