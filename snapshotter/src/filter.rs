//! containerd's filter syntax, as far as snapshots have fields.
//!
//! ```text
//! filter   = selector ("," selector)*          all of them
//! selector = path [operator value]             without operator: the field is there
//! path     = field ("." field)*                name | parent | kind | labels.<key>
//! field    = quoted | [A-Za-z0-9_-]+
//! operator = "==" | "!=" | "~="
//! value    = quoted | anything up to a comma or space
//! quoted   = "…" with Go's escapes; for a regular expression also /…/ or |…|
//! ```
//! A list of filters matches what any of them matches; an empty list or filter matches everything.

use regex::Regex;

use crate::{
    snapshot::{Kind, Snapshot},
    snapshots::SNAPSHOT_REF,
};

/// A filter that is not understood.
#[derive(Debug, thiserror::Error)]
#[error("filter {filter:?}, byte {position}: {reason}")]
pub struct FilterError {
    filter: String,
    position: usize,
    reason: String,
}

/// Something that an index answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// The snapshot of this name.
    Name(&'a str),
    /// The children of this one.
    Parent(&'a str),
    /// Those whose label `containerd.io/snapshot.ref` has this value.
    Reference(&'a str),
}

#[derive(Debug)]
enum Field {
    Name,
    Parent,
    Kind,
    Label(String),
    /// A field that snapshots do not have; containerd takes it for absent.
    Unknown,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

#[derive(Debug)]
struct Selector {
    field: Field,
    test: Test,
}

/// A list of filters.
#[derive(Debug)]
pub struct Filters(Vec<Vec<Selector>>);

impl Filters {
    /// Reads a list of filters.
    ///
    /// # Errors
    /// When one is not in the syntax.
    pub fn parse(filters: &[String]) -> Result<Self, FilterError> {
        filters
            .iter()
            .map(|filter| Parser { filter, position: 0 }.filter())
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether any filter matches.
    #[must_use]
    pub fn matches(&self, name: &str, snapshot: &Snapshot) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|filter| filter.iter().all(|selector| selector.matches(name, snapshot)))
    }

    /// Look-ups that together find everything that matches, if there are such.
    #[must_use]
    pub fn lookups(&self) -> Option<Vec<Lookup<'_>>> {
        if self.0.is_empty() {
            return None;
        }
        self.0.iter().map(|filter| filter.iter().filter_map(Selector::lookup).min_by_key(rank)).collect()
    }
}

/// A name finds at most one, a reference a few, a parent perhaps many.
fn rank(lookup: &Lookup<'_>) -> u8 {
    match lookup {
        Lookup::Name(_) => 0,
        Lookup::Reference(_) => 1,
        Lookup::Parent(_) => 2,
    }
}

impl Selector {
    fn lookup(&self) -> Option<Lookup<'_>> {
        match (&self.field, &self.test) {
            (Field::Name, Test::Equal(value)) => Some(Lookup::Name(value)),
            // "No parent" is no key of the index.
            (Field::Parent, Test::Equal(value)) if !value.is_empty() => Some(Lookup::Parent(value)),
            (Field::Label(key), Test::Equal(value)) if key == SNAPSHOT_REF => Some(Lookup::Reference(value)),
            _ => None,
        }
    }

    fn matches(&self, name: &str, snapshot: &Snapshot) -> bool {
        let value = match &self.field {
            Field::Name => Some(name),
            Field::Parent => Some(snapshot.parent.as_deref().unwrap_or_default()),
            Field::Kind => Some(match snapshot.kind {
                Kind::View => "view",
                Kind::Active => "active",
                Kind::Committed => "committed",
            }),
            Field::Label(key) => snapshot.labels.get(key).map(String::as_str),
            Field::Unknown => None,
        };
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value == Some(wanted),
            Test::NotEqual(unwanted) => value.unwrap_or_default() != unwanted,
            Test::Matches(expression) => expression.is_match(value.unwrap_or_default()),
        }
    }
}

struct Parser<'a> {
    filter: &'a str,
    position: usize,
}

impl Parser<'_> {
    fn filter(mut self) -> Result<Vec<Selector>, FilterError> {
        let mut selectors = Vec::new();
        self.skip_space();
        if self.peek().is_none() {
            return Ok(selectors);
        }
        loop {
            selectors.push(self.selector()?);
            match self.peek() {
                None => return Ok(selectors),
                Some(',') => self.position += 1,
                Some(_) => return Err(self.error("expected a comma")),
            }
        }
    }

    fn selector(&mut self) -> Result<Selector, FilterError> {
        let mut path = vec![self.field()?];
        while self.peek() == Some('.') {
            self.position += 1;
            path.push(self.field()?);
        }
        let field = match path[0].as_str() {
            "name" => Field::Name,
            "parent" => Field::Parent,
            "kind" => Field::Kind,
            "labels" => Field::Label(path[1..].join(".")),
            _ => Field::Unknown,
        };
        if matches!(self.peek(), None | Some(',')) {
            return Ok(Selector { field, test: Test::Present });
        }
        let operator = self.filter.get(self.position..self.position + 2).unwrap_or_default();
        let test: fn(String) -> Test = match operator {
            "==" => Test::Equal,
            "!=" => Test::NotEqual,
            "~=" => {
                self.position += 2;
                self.skip_space();
                let at = self.position;
                let expression = self.value(&['"', '/', '|'])?;
                let expression = Regex::new(&expression)
                    .map_err(|error| Parser { filter: self.filter, position: at }.error(error.to_string()))?;
                self.skip_space();
                return Ok(Selector { field, test: Test::Matches(expression) });
            }
            _ => return Err(self.error("expected ==, != or ~=")),
        };
        self.position += 2;
        self.skip_space();
        let value = self.value(&['"'])?;
        self.skip_space();
        Ok(Selector { field, test: test(value) })
    }

    fn field(&mut self) -> Result<String, FilterError> {
        self.skip_space();
        let field = if self.peek() == Some('"') {
            self.quoted('"')?
        } else {
            self.take(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
                .ok_or_else(|| self.error("expected a field"))?
        };
        self.skip_space();
        Ok(field)
    }

    fn value(&mut self, quotes: &[char]) -> Result<String, FilterError> {
        match self.peek() {
            Some(quote) if quotes.contains(&quote) => self.quoted(quote),
            _ => self.take(|c| c != ',' && !c.is_whitespace()).ok_or_else(|| self.error("expected a value")),
        }
    }

    /// A quoted string, as Go's `strconv.Unquote` reads it.
    fn quoted(&mut self, quote: char) -> Result<String, FilterError> {
        self.position += quote.len_utf8();
        let mut bytes = Vec::new();
        loop {
            let c = self.next().ok_or_else(|| self.error("a quote is not closed"))?;
            if c == quote {
                return String::from_utf8(bytes).map_err(|_| self.error("not UTF-8"));
            }
            let c = if c != '\\' {
                c
            } else if quote == '"' {
                match self.escape()? {
                    Escape::Char(c) => c,
                    Escape::Byte(byte) => {
                        bytes.push(byte);
                        continue;
                    }
                }
            } else if self.peek() == Some(quote) {
                self.position += quote.len_utf8();
                quote
            } else {
                // Any other backslash between slashes belongs to the regular expression.
                '\\'
            };
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }

    fn escape(&mut self) -> Result<Escape, FilterError> {
        let c = self.next().ok_or_else(|| self.error("a quote is not closed"))?;
        Ok(Escape::Char(match c {
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            '\\' | '"' => c,
            'x' => return self.byte(2, 16),
            '0'..='7' => {
                self.position -= 1;
                return self.byte(3, 8);
            }
            'u' | 'U' => {
                let digits = if c == 'u' { 4 } else { 8 };
                let number = self.number(digits, 16)?;
                char::from_u32(number).ok_or_else(|| self.error("no such character"))?
            }
            _ => return Err(self.error("no such escape")),
        }))
    }

    fn byte(&mut self, digits: usize, radix: u32) -> Result<Escape, FilterError> {
        let number = self.number(digits, radix)?;
        u8::try_from(number).map(Escape::Byte).map_err(|_| self.error("no byte"))
    }

    fn number(&mut self, digits: usize, radix: u32) -> Result<u32, FilterError> {
        let end = self.position + digits;
        let number = self
            .filter
            .get(self.position..end)
            .filter(|text| text.chars().all(|c| c.is_digit(radix)))
            .and_then(|text| u32::from_str_radix(text, radix).ok())
            .ok_or_else(|| self.error("expected digits"))?;
        self.position = end;
        Ok(number)
    }

    fn take(&mut self, wanted: impl Fn(char) -> bool) -> Option<String> {
        let rest = &self.filter[self.position..];
        let length = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.position += length;
        (length > 0).then(|| rest[..length].to_owned())
    }

    fn peek(&self) -> Option<char> {
        self.filter[self.position..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.position += c.len_utf8();
        Some(c)
    }

    fn skip_space(&mut self) {
        let rest = &self.filter[self.position..];
        self.position += rest.len() - rest.trim_start().len();
    }

    fn error(&self, reason: impl Into<String>) -> FilterError {
        FilterError { filter: self.filter.to_owned(), position: self.position, reason: reason.into() }
    }
}

enum Escape {
    Char(char),
    Byte(u8),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Content, Labels};

    fn parse(filters: &[&str]) -> Result<Filters, FilterError> {
        Filters::parse(&filters.iter().map(|&filter| filter.to_owned()).collect::<Vec<_>>())
    }

    fn example() -> Snapshot {
        let labels = [("plain", "1"), ("a.b", "dot"), (SNAPSHOT_REF, "sha256:ab"), ("odd \"key\"", "é")];
        let labels: Labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        Snapshot::new(1, Kind::Committed, Content::Host, Some("k8s.io/1/p".to_owned()), labels)
    }

    #[test]
    fn filters_match_as_containerd_documents_them() {
        let table: &[(&[&str], bool)] = &[
            (&[], true),
            (&[""], true),
            (&["name==n"], true),
            (&["name==other"], false),
            (&["name!=other"], true),
            (&["name==other", "kind==committed"], true),
            (&["name==n,kind==active"], false),
            (&["kind==committed , name==n"], true),
            (&["name"], true),
            (&["labels.plain"], true),
            (&["labels.absent"], false),
            (&["labels.absent!=x"], true),
            (&["labels.absent=="], false),
            (&["labels.a.b==dot"], true),
            (&[r#"labels."a.b"==dot"#], true),
            (&[r#"labels."odd \"key\""=="\u00e9""#], true),
            (&[r#"labels."odd \"key\""=="\xc3\xa9""#], true),
            (&[r#"labels."odd \"key\""=="\303\251""#], true),
            (&[r#"labels."containerd.io/snapshot.ref"==sha256:ab,parent=="k8s.io/1/p""#], true),
            (&[r#"parent=="""#], false),
            (&["parent~=^k8s"], true),
            (&["parent~=/p$/"], true),
            (&[r"parent~=|io\/\d|"], true),
            (&[r"parent~=/io\/\d/"], true),
            (&["parent~=x"], false),
            (&["unheardof==1"], false),
            (&["unheardof!=1"], true),
        ];
        for (filters, expected) in table {
            let Ok(parsed) = parse(filters) else {
                assert!(filters.contains(&"labels.absent=="), "{filters:?} is not understood");
                continue;
            };
            assert_eq!(parsed.matches("n", &example()), *expected, "{filters:?}");
        }
    }

    #[test]
    fn malformed_filters_are_errors_that_say_where() {
        for (filter, position) in [
            ("name=x", 4),
            ("name==", 6),
            ("name==a b", 8),
            (",", 0),
            ("name==n,", 8),
            (r#"name=="n"#, 8),
            (r#"name=="\q""#, 9),
            ("labels.", 7),
            ("name~=(", 6),
            ("é==1", 0),
            ("name é", 5),
        ] {
            let error = parse(&[filter]).expect_err(filter);
            assert_eq!(error.position, position, "{error}");
        }
    }

    #[test]
    fn equality_of_indexed_fields_becomes_a_look_up() {
        assert_eq!(parse(&["name==a", "name==b"]).unwrap().lookups().unwrap().len(), 2);
        let containerd = parse(&[r#"labels."containerd.io/snapshot.ref"==t,parent=="p""#]).unwrap();
        assert_eq!(containerd.lookups(), Some(vec![Lookup::Reference("t")]));
        for filters in [&["name!=a"][..], &["name==a", "kind==view"], &[r#"parent=="""#], &[], &[""]] {
            assert_eq!(parse(filters).unwrap().lookups(), None, "{filters:?}");
        }
    }
}
