//! The static types of expressions.

use cel_interpreter::common::ast::LiteralValue;

use super::value::Value;
use crate::event::describe::ViewType;
use crate::reaction::rules::node_types::describe;
use crate::reaction::rules::number::Numeric;

/// A static type; `Dyn` is known only at evaluation.
#[derive(Clone, Debug)]
pub(super) enum Type {
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    /// A type itself.
    Kind,
    List(Box<Type>),
    /// Keys and values.
    Map(Box<Type>, Box<Type>),
    /// The event, one of its messages, or an enum.
    View(ViewType),
}

impl Type {
    pub(super) fn of(place: ViewType) -> Self {
        match place {
            ViewType::String => Self::String,
            ViewType::Bool => Self::Bool,
            ViewType::Int { .. } => Self::Int,
            ViewType::Double => Self::Double,
            ViewType::List(element) => Self::List(Box::new(Self::of(element.view_type()))),
            ViewType::Map(value) => Self::Map(Box::new(Self::String), Box::new(Self::of(value.view_type()))),
            ViewType::Struct => Self::Map(Box::new(Self::String), Box::new(Self::Dyn)),
            ViewType::Event | ViewType::Message(_) | ViewType::Enum(_) => Self::View(place),
        }
    }

    pub(super) fn is_number(&self) -> bool {
        // An enum value without a name is a number.
        matches!(self, Self::Dyn | Self::Int | Self::Uint | Self::Double | Self::View(ViewType::Enum(_)))
    }

    pub(super) fn is_string(&self) -> bool {
        matches!(self, Self::Dyn | Self::String | Self::View(ViewType::Enum(_)))
    }

    pub(super) fn is_bool(&self) -> bool {
        matches!(self, Self::Dyn | Self::Bool)
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::Dyn | Self::List(_))
    }

    /// Whether values of this type have entries.
    pub(super) fn is_map(&self) -> bool {
        matches!(self, Self::Dyn | Self::Map(..)) || self.is_object()
    }

    fn is_object(&self) -> bool {
        matches!(self, Self::View(ViewType::Event | ViewType::Message(_)))
    }

    /// Whether two values of these types can be equal.
    pub(super) fn can_equal(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dyn, _) | (_, Self::Dyn) => true,
            // A missing field is absent rather than null; comparing it with null is harmless.
            (Self::Null, other) | (other, Self::Null) => matches!(other, Self::Null) || other.is_map(),
            (Self::List(a), Self::List(b)) => a.can_equal(b),
            (Self::Kind, Self::Kind) | (Self::Bytes, Self::Bytes) | (Self::Bool, Self::Bool) => true,
            _ => {
                (self.is_number() && other.is_number())
                    || (self.is_string() && other.is_string())
                    || (self.is_map() && other.is_map())
            }
        }
    }

    /// Whether values of the two types can be ordered.
    pub(super) fn has_order_with(&self, other: &Self) -> bool {
        (self.is_number() && other.is_number())
            || (self.is_string() && other.is_string())
            || (self.is_bool() && other.is_bool())
            || (matches!(self, Self::Dyn | Self::Bytes) && matches!(other, Self::Dyn | Self::Bytes))
    }

    /// The type of a value of either type.
    pub(super) fn joined(self, other: Self) -> Self {
        match (self, other) {
            (Self::List(a), Self::List(b)) => Self::List(Box::new(a.joined(*b))),
            (Self::Map(key, value), Self::Map(other_key, other)) => {
                Self::Map(Box::new(key.joined(*other_key)), Box::new(value.joined(*other)))
            }
            (Self::View(a), Self::View(_)) if matches!(a, ViewType::Event) => Self::View(a),
            (a, b) if !matches!(a, Self::View(_)) && std::mem::discriminant(&a) == std::mem::discriminant(&b) => a,
            _ => Self::Dyn,
        }
    }

    /// The type in the words of the rule's author.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Dyn => "any value",
            Self::Null => "null",
            Self::Bool => "a bool",
            Self::Int => "an int",
            Self::Uint => "a uint",
            Self::Double => "a double",
            Self::String => "a string",
            Self::Bytes => "bytes",
            Self::Kind => "a type",
            Self::List(_) => "a list",
            Self::Map(..) => "a map",
            Self::View(place) => describe(*place),
        }
    }
}

/// The value of a literal, with its type.
pub(super) fn constant(literal: &LiteralValue) -> (Value<'static>, Type) {
    match literal {
        LiteralValue::Boolean(value) => (Value::Bool(*value.inner()), Type::Bool),
        LiteralValue::Bytes(bytes) => (Value::Bytes(bytes.inner().into()), Type::Bytes),
        LiteralValue::Double(double) => (Value::double(*double.inner()), Type::Double),
        LiteralValue::Int(integer) => (Value::int(*integer.inner()), Type::Int),
        LiteralValue::Null => (Value::Null, Type::Null),
        LiteralValue::String(text) => (Value::text(text.inner()), Type::String),
        LiteralValue::UInt(integer) => (Value::Number(Numeric::Uint(*integer.inner())), Type::Uint),
    }
}
