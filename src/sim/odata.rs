//! The part of OData that both services understand: `$filter`, `$orderby`, `$select`.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeSet;

use rust_decimal::Decimal;
use serde_json::Value;

use super::clock::read_ticks;

/// A parsed `$filter`.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// All of them.
    And(Vec<Filter>),
    /// Any of them.
    Or(Vec<Filter>),
    /// Not so.
    Not(Box<Filter>),
    /// A property compared with a literal.
    Compare(String, Operator, Literal),
    /// `Microsoft.Dynamics.CRM.In(…)`.
    In(String, Vec<Literal>),
    /// `property eq 'a' or property eq 'b' …`, each text as it is compared: one look at a row instead of one for each.
    Among(String, BTreeSet<String>),
    /// `list/any(x:x/property eq literal)`.
    Any(String, String, Operator, Literal),
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `eq`.
    Eq,
    /// `ne`.
    Ne,
    /// `ge`.
    Ge,
    /// `gt`.
    Gt,
    /// `le`.
    Le,
    /// `lt`.
    Lt,
}

/// A literal.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// `null`.
    Null,
    /// `'text'`.
    Text(String),
    /// A number.
    Number(Decimal),
    /// `true`, `false`.
    Boolean(bool),
    /// A bare GUID, date or date-time.
    Word(String),
}

/// One `$orderby` key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The property.
    pub property: String,
    /// Descending.
    pub is_descending: bool,
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// A sentence saying what was not understood.
    pub fn parse(text: &str) -> Result<Filter, String> {
        let mut parser = Parser { tokens: tokens(text)?, at: 0 };
        let filter = parser.any_of()?;
        match parser.peek() {
            None => Ok(filter),
            Some(token) => Err(format!("unexpected {token:?} at the end of the filter")),
        }
    }

    /// Whether a row fits; `read` gives the value of a property (null when it has none).
    pub fn fits<'a>(&self, read: &dyn Fn(&str) -> Option<&'a Value>) -> bool {
        match self {
            Filter::And(parts) => parts.iter().all(|part| part.fits(read)),
            Filter::Or(parts) => parts.iter().any(|part| part.fits(read)),
            Filter::Not(part) => !part.fits(read),
            Filter::Compare(property, operator, literal) => operator.holds(read(property), literal),
            Filter::In(property, literals) => {
                let value = read(property);
                literals.iter().any(|literal| Operator::Eq.holds(value, literal))
            }
            Filter::Among(property, texts) => read(property).and_then(Value::as_str).is_some_and(|value| {
                let value = folded(value);
                texts.contains(value.as_ref())
            }),
            Filter::Any(list, property, operator, literal) => {
                let items = read(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                items.iter().any(|item| operator.holds(item.get(property), literal))
            }
        }
    }

    /// Every property the filter names.
    pub fn properties(&self) -> Vec<&str> {
        match self {
            Filter::And(parts) | Filter::Or(parts) => parts.iter().flat_map(Filter::properties).collect(),
            Filter::Not(part) => part.properties(),
            Filter::Compare(property, ..)
            | Filter::In(property, _)
            | Filter::Among(property, _)
            | Filter::Any(property, ..) => vec![property],
        }
    }

    /// The lower bound (`ge`, `gt`) that every fitting row has for a date-time property, in ticks.
    pub fn not_before(&self, property: &str) -> Option<i64> {
        match self {
            Filter::And(parts) => parts.iter().filter_map(|part| part.not_before(property)).max(),
            Filter::Compare(of, Operator::Ge | Operator::Gt, Literal::Word(word)) if of == property => read_ticks(word),
            _ => None,
        }
    }

    /// The ids that every fitting row is among, where the filter says so.
    pub fn only_ids(&self, property: &str) -> Option<Vec<uuid::Uuid>> {
        let id = |literal: &Literal| match literal {
            Literal::Word(text) | Literal::Text(text) => uuid::Uuid::try_parse(text).ok(),
            _ => None,
        };
        match self {
            Filter::Compare(of, Operator::Eq, literal) if of == property => Some(id(literal).into_iter().collect()),
            Filter::In(of, literals) if of == property => Some(literals.iter().filter_map(id).collect()),
            Filter::Among(of, texts) if of == property => {
                Some(texts.iter().filter_map(|text| uuid::Uuid::try_parse(text).ok()).collect())
            }
            Filter::And(parts) => parts.iter().find_map(|part| part.only_ids(property)),
            Filter::Or(parts) => {
                let lists: Option<Vec<_>> = parts.iter().map(|part| part.only_ids(property)).collect();
                lists.map(|lists| lists.into_iter().flatten().collect())
            }
            _ => None,
        }
    }
}

/// Any of these; equalities of one property with texts are one question.
fn any(parts: Vec<Filter>) -> Filter {
    let Some(Filter::Compare(property, Operator::Eq, _)) = parts.first() else { return Filter::Or(parts) };
    let text = |part: &Filter| match part {
        Filter::Compare(of, Operator::Eq, Literal::Text(text) | Literal::Word(text))
            if of == property && !may_be_time(text) =>
        {
            Some(folded(text).into_owned())
        }
        _ => None,
    };
    match parts.iter().map(text).collect() {
        Some(texts) => Filter::Among(property.clone(), texts),
        None => Filter::Or(parts),
    }
}

impl Operator {
    fn holds(self, value: Option<&Value>, literal: &Literal) -> bool {
        let value = value.unwrap_or(&Value::Null);
        let ordering = compare(value, literal);
        match self {
            Operator::Eq => ordering == Some(Ordering::Equal),
            Operator::Ne => ordering != Some(Ordering::Equal),
            Operator::Ge => matches!(ordering, Some(Ordering::Greater | Ordering::Equal)),
            Operator::Gt => ordering == Some(Ordering::Greater),
            Operator::Le => matches!(ordering, Some(Ordering::Less | Ordering::Equal)),
            Operator::Lt => ordering == Some(Ordering::Less),
        }
    }
}

/// Compares text without regard to case and trailing blanks, as the database does (dataverse §3.3).
fn compare(value: &Value, literal: &Literal) -> Option<Ordering> {
    match (value, literal) {
        (Value::Null, Literal::Null) => Some(Ordering::Equal),
        (Value::Bool(value), Literal::Boolean(literal)) => Some(value.cmp(literal)),
        (Value::Number(value), Literal::Number(literal)) => Some(number(value)?.cmp(literal)),
        (Value::String(value), Literal::Text(literal) | Literal::Word(literal)) => {
            let may_be_times = [value, literal].iter().all(|text| may_be_time(text));
            match may_be_times.then(|| Some((read_ticks(value)?, read_ticks(literal)?))).flatten() {
                Some((value, literal)) => Some(value.cmp(&literal)),
                None => Some(compare_folded(value, literal)),
            }
        }
        _ => None,
    }
}

/// Text of this shape may be an instant or a date; the id of a row never is, and there are many to be compared.
fn may_be_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 10 && bytes[4] == b'-' && bytes[7] == b'-'
}

fn compare_folded(left: &str, right: &str) -> Ordering {
    let (left, right) = (left.trim_end(), right.trim_end());
    if left.is_ascii() && right.is_ascii() {
        let lower = |byte: u8| byte.to_ascii_lowercase();
        return left.bytes().map(lower).cmp(right.bytes().map(lower));
    }
    left.to_lowercase().cmp(&right.to_lowercase())
}

/// A text as it is compared: texts that compare as equal are the same here.
fn folded(text: &str) -> Cow<'_, str> {
    let text = text.trim_end();
    let is_folded = text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase());
    if is_folded { Cow::Borrowed(text) } else { Cow::Owned(text.to_lowercase()) }
}

/// A JSON number as an exact decimal.
pub(crate) fn number(value: &serde_json::Number) -> Option<Decimal> {
    let text = value.to_string();
    text.parse().ok().or_else(|| Decimal::from_scientific(&text).ok())
}

/// Orders two values of one column; null comes first.
pub(crate) fn rank(left: &Value, right: &Value) -> Ordering {
    match (left, right) {
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Less,
        (_, Value::Null) => Ordering::Greater,
        (Value::Number(left), Value::Number(right)) => number(left).cmp(&number(right)),
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::String(left), Value::String(right)) => match (read_ticks(left), read_ticks(right)) {
            (Some(left), Some(right)) => left.cmp(&right),
            _ => left.to_lowercase().cmp(&right.to_lowercase()),
        },
        _ => Ordering::Equal,
    }
}

/// Reads `$orderby`.
pub fn orders(text: &str) -> Vec<Order> {
    text.split(',')
        .map(|part| {
            let mut words = part.split_whitespace();
            let property = words.next().unwrap_or_default().to_owned();
            Order { property, is_descending: words.next() == Some("desc") }
        })
        .filter(|order| !order.property.is_empty())
        .collect()
}

/// Splits `$select` or `$expand` at its outer commas.
pub fn parts(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    let outer = move |letter: char| {
        depth += i32::from(letter == '(') - i32::from(letter == ')');
        letter == ',' && depth == 0
    };
    text.split(outer).map(str::trim).filter(|part| !part.is_empty()).collect()
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Open,
    Close,
    ListOpen,
    ListClose,
    Comma,
    Equals,
    Colon,
    Quoted(String),
    Word(String),
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let letters: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    // Colons belong to a lambda only inside `any(`; elsewhere they are part of a date-time.
    while let Some(&letter) = letters.get(at) {
        at += 1;
        match letter {
            ' ' | '\t' => {}
            '(' => found.push(Token::Open),
            ')' => found.push(Token::Close),
            '[' => found.push(Token::ListOpen),
            ']' => found.push(Token::ListClose),
            ',' => found.push(Token::Comma),
            '=' => found.push(Token::Equals),
            ':' => found.push(Token::Colon),
            '\'' => {
                let mut quoted = String::new();
                loop {
                    match (letters.get(at), letters.get(at + 1)) {
                        (Some('\''), Some('\'')) => {
                            quoted.push('\'');
                            at += 2;
                        }
                        (Some('\''), _) => {
                            at += 1;
                            break;
                        }
                        (Some(letter), _) => {
                            quoted.push(*letter);
                            at += 1;
                        }
                        (None, _) => return Err("a quote is not closed".to_owned()),
                    }
                }
                found.push(Token::Quoted(quoted));
            }
            first => {
                let mut word = String::from(first);
                while let Some(&letter) = letters.get(at) {
                    let is_part = letter.is_alphanumeric()
                        || "-._/@+$".contains(letter)
                        || (letter == ':' && first.is_ascii_digit());
                    if !is_part {
                        break;
                    }
                    word.push(letter);
                    at += 1;
                }
                found.push(Token::Word(word));
            }
        }
    }
    Ok(found)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn expect(&mut self, wanted: &Token) -> Result<(), String> {
        match self.next() {
            Some(token) if token == *wanted => Ok(()),
            other => Err(format!("expected {wanted:?}, found {other:?}")),
        }
    }

    fn is_word(&self, wanted: &str) -> bool {
        matches!(self.peek(), Some(Token::Word(word)) if word == wanted)
    }

    fn any_of(&mut self) -> Result<Filter, String> {
        let mut parts = vec![self.all_of()?];
        while self.is_word("or") {
            self.at += 1;
            parts.push(self.all_of()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { any(parts) })
    }

    fn all_of(&mut self) -> Result<Filter, String> {
        let mut parts = vec![self.one()?];
        while self.is_word("and") {
            self.at += 1;
            parts.push(self.one()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Filter::And(parts) })
    }

    fn one(&mut self) -> Result<Filter, String> {
        match self.next() {
            Some(Token::Open) => {
                let inner = self.any_of()?;
                self.expect(&Token::Close)?;
                Ok(inner)
            }
            Some(Token::Word(word)) if word == "not" => Ok(Filter::Not(Box::new(self.one()?))),
            Some(Token::Word(word)) if word == "Microsoft.Dynamics.CRM.In" => self.membership(),
            Some(Token::Word(word)) if word.ends_with("/any") => self.lambda(word.trim_end_matches("/any")),
            Some(Token::Word(property)) => {
                let operator = self.operator()?;
                Ok(Filter::Compare(property, operator, self.literal()?))
            }
            other => Err(format!("unexpected {other:?} in the filter")),
        }
    }

    fn operator(&mut self) -> Result<Operator, String> {
        match self.next() {
            Some(Token::Word(word)) => match word.as_str() {
                "eq" => Ok(Operator::Eq),
                "ne" => Ok(Operator::Ne),
                "ge" => Ok(Operator::Ge),
                "gt" => Ok(Operator::Gt),
                "le" => Ok(Operator::Le),
                "lt" => Ok(Operator::Lt),
                other => Err(format!("unknown operator {other}")),
            },
            other => Err(format!("expected an operator, found {other:?}")),
        }
    }

    fn literal(&mut self) -> Result<Literal, String> {
        match self.next() {
            Some(Token::Quoted(text)) => Ok(Literal::Text(text)),
            Some(Token::Word(word)) => Ok(match word.as_str() {
                "null" => Literal::Null,
                "true" => Literal::Boolean(true),
                "false" => Literal::Boolean(false),
                _ => word.parse().map_or(Literal::Word(word), Literal::Number),
            }),
            other => Err(format!("expected a value, found {other:?}")),
        }
    }

    fn membership(&mut self) -> Result<Filter, String> {
        self.expect(&Token::Open)?;
        self.expect(&Token::Word("PropertyName".to_owned()))?;
        self.expect(&Token::Equals)?;
        let Some(Token::Quoted(property)) = self.next() else { return Err("In needs a property name".to_owned()) };
        self.expect(&Token::Comma)?;
        self.expect(&Token::Word("PropertyValues".to_owned()))?;
        self.expect(&Token::Equals)?;
        self.expect(&Token::ListOpen)?;
        let mut literals = vec![self.literal()?];
        while self.peek() == Some(&Token::Comma) {
            self.at += 1;
            literals.push(self.literal()?);
        }
        self.expect(&Token::ListClose)?;
        self.expect(&Token::Close)?;
        Ok(Filter::In(property, literals))
    }

    fn lambda(&mut self, list: &str) -> Result<Filter, String> {
        self.expect(&Token::Open)?;
        let Some(Token::Word(variable)) = self.next() else { return Err("any needs a variable".to_owned()) };
        self.expect(&Token::Colon)?;
        let Some(Token::Word(path)) = self.next() else { return Err("any needs a property".to_owned()) };
        let property = path.strip_prefix(&format!("{variable}/")).unwrap_or(&path).to_owned();
        let operator = self.operator()?;
        let literal = self.literal()?;
        self.expect(&Token::Close)?;
        Ok(Filter::Any(list.to_owned(), property, operator, literal))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fits(filter: &str, row: &Value) -> bool {
        Filter::parse(filter).expect("a filter").fits(&|property| row.get(property))
    }

    #[test]
    fn comparisons_nulls_and_brackets_decide() {
        let row = json!({"status": "New", "n": 5, "at": "2026-03-01T08:15:30Z", "team": [{"email": "a@b.example"}]});
        for yes in [
            "status eq 'New'",
            "status eq 'new'",
            "n ge 5 and (missing eq null or n lt 0)",
            "missing eq null",
            "n ne null",
            "at ge 2026-03-01T08:15:30Z",
            "at lt 2026-03-01T08:15:30.001Z",
            "not (n eq 4)",
            "team/any(t:t/email eq 'a@b.example')",
            "Microsoft.Dynamics.CRM.In(PropertyName='n',PropertyValues=[4,5])",
        ] {
            assert!(fits(yes, &row), "{yes}");
        }
        for no in ["status ne 'New'", "n gt 5", "status eq null", "missing ne null", "missing ge 3"] {
            assert!(!fits(no, &row), "{no}");
        }
    }

    /// A list of equalities is one set, and says what each of them alone would say.
    #[test]
    fn a_list_of_texts_is_compared_as_each_of_them() {
        let texts =
            ["Straße", "STRASSE ", "a|b", "A|B", "2026-03-01", "2026-03-01T00:00:00Z", "Ünal", "ünal  ", "7", ""];
        for list in [&["straße", "a|b"][..], &["ÜNAL", "7"], &["2026-03-01", "a|b"], &["", "strasse"]] {
            let terms: Vec<String> = list.iter().map(|text| format!("name eq '{text}'")).collect();
            for row in texts.iter().map(|text| json!({"name": text})).chain([json!({"name": null}), json!({"name": 7})])
            {
                let alone = terms.iter().any(|term| fits(term, &row));
                assert_eq!(fits(&terms.join(" or "), &row), alone, "{list:?} {row}");
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "status eq", "status is 'New'", "status eq 'New", "(n eq 1", "n eq 1)", "n eq 1 or"] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bounds_and_id_lists_are_found_for_the_indexes() {
        let filter = Filter::parse("modifiedon ge 2026-03-01T00:00:00Z and subject ne null").expect("a filter");
        assert_eq!(filter.not_before("modifiedon"), read_ticks("2026-03-01"));
        let id = "6b1d9a7c-1111-4222-8333-944445555666";
        let other = id.replace("6b1d", "AB1D");
        let filter = Filter::parse(&format!("leadid eq {id} or leadid eq '{other}'")).expect("a filter");
        assert_eq!(filter.only_ids("leadid").map(|ids| ids.len()), Some(2));
        assert_eq!(Filter::parse("leadid eq 1 or n eq 2").expect("a filter").only_ids("leadid"), None);
    }
}
