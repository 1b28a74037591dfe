//! Conditions on a member of JSON data. A member is compared as what it is: a text by its bytes, a number as
//! a number, `true` and `false` as these words. Objects and arrays match nothing, and are not written out,
//! which can take long.

use sqlx::QueryBuilder;
use sqlx::postgres::Postgres;

/// A condition on the member at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataCondition {
    /// Names of members, and places in arrays.
    pub path: Vec<String>,
    /// What the member has to be.
    pub test: DataTest,
}

/// What a member has to be. One that is missing meets only [`JsonState::Null`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataTest {
    /// It compares so with a value.
    Compare(Comparison, Operand),
    /// It equals one of these.
    In(Vec<Operand>),
    /// It is a text of this pattern, as SQL's LIKE has it.
    Like(String),
    /// It is this.
    Is(JsonState),
}

/// How two values compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "their names are those of the operators")]
pub enum Comparison {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// A value to compare with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operand {
    /// For texts, and for `true` and `false`.
    pub text: String,
    /// Whether the text is a number of JSON, too.
    pub is_number: bool,
}

/// What a member can be without a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "their names are those of JSON")]
pub enum JsonState {
    /// `null`, or not there.
    Null,
    NotNull,
    True,
    False,
}

impl Comparison {
    const fn sql(self) -> &'static str {
        match self {
            Self::Equal => " = ",
            Self::NotEqual => " <> ",
            Self::Greater => " > ",
            Self::GreaterOrEqual => " >= ",
            Self::Less => " < ",
            Self::LessOrEqual => " <= ",
        }
    }

    const fn is_ordering(self) -> bool {
        !matches!(self, Self::Equal | Self::NotEqual)
    }
}

impl DataCondition {
    /// Adds the condition to a statement.
    pub(super) fn push<'a>(&'a self, sql: &mut QueryBuilder<'a, Postgres>) {
        match &self.test {
            DataTest::Compare(comparison, operand) => {
                self.push_comparison(sql, *comparison, operand);
            }
            DataTest::In(operands) => self.push_in(sql, operands),
            DataTest::Like(pattern) => {
                self.push_case(sql);
                self.push_text(sql, " WHEN 'string' THEN ");
                sql.push(" LIKE ").push_bind(pattern.as_str()).push(" END");
            }
            DataTest::Is(state) => {
                sql.push("coalesce(jsonb_typeof(");
                self.push_member(sql, "");
                sql.push("), 'null')");
                match state {
                    JsonState::Null => sql.push(" = 'null'"),
                    JsonState::NotNull => sql.push(" <> 'null'"),
                    JsonState::True | JsonState::False => {
                        self.push_member(sql, " = 'boolean' AND ");
                        let is_true = *state == JsonState::True;
                        sql.push(if is_true { " = 'true'" } else { " = 'false'" })
                    }
                };
            }
        }
    }

    fn push_comparison<'a>(
        &'a self,
        sql: &mut QueryBuilder<'a, Postgres>,
        comparison: Comparison,
        operand: &'a Operand,
    ) {
        self.push_case(sql);
        self.push_text(sql, " WHEN 'string' THEN ");
        sql.push(comparison.sql()).push_bind(operand.text.as_str());
        if operand.is_number {
            self.push_member(sql, " WHEN 'number' THEN ");
            sql.push(comparison.sql());
            sql.push_bind(operand.text.as_str()).push("::jsonb");
        } else if comparison == Comparison::NotEqual {
            sql.push(" WHEN 'number' THEN true");
        }
        if !comparison.is_ordering() {
            self.push_text(sql, " WHEN 'boolean' THEN ");
            sql.push(comparison.sql()).push_bind(operand.text.as_str());
        }
        sql.push(" END");
    }

    fn push_in<'a>(&'a self, sql: &mut QueryBuilder<'a, Postgres>, operands: &'a [Operand]) {
        let texts = |only_numbers: bool| -> Vec<&'a str> {
            let chosen = operands.iter().filter(|one| one.is_number || !only_numbers);
            chosen.map(|one| one.text.as_str()).collect()
        };
        self.push_case(sql);
        for kind in [" WHEN 'string' THEN ", " WHEN 'boolean' THEN "] {
            self.push_text(sql, kind);
            sql.push(" = ANY (").push_bind(texts(false)).push(")");
        }
        self.push_member(sql, " WHEN 'number' THEN ");
        sql.push(" = ANY (")
            .push_bind(texts(true))
            .push("::jsonb[])");
        sql.push(" END");
    }

    fn push_case<'a>(&'a self, sql: &mut QueryBuilder<'a, Postgres>) {
        sql.push("CASE jsonb_typeof(");
        self.push_member(sql, "");
        sql.push(")");
    }

    fn push_member<'a>(&'a self, sql: &mut QueryBuilder<'a, Postgres>, before: &'static str) {
        sql.push(before).push("(data #> ");
        sql.push_bind(self.path.as_slice()).push(")");
    }

    fn push_text<'a>(&'a self, sql: &mut QueryBuilder<'a, Postgres>, before: &'static str) {
        sql.push(before).push("(data #>> ");
        sql.push_bind(self.path.as_slice()).push(") COLLATE \"C\"");
    }
}
