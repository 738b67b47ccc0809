//! A path against the form of events: what it names must be able to be there.

use super::Path;
use super::query::{Comparable, Logical, PatternOf, Query, Segment, Selector};
use crate::event::describe::{ViewType, payload};
use crate::nearest::suggestion;
use crate::reaction::kinds::Kinds;

/// What stands at a place of the view, if that is known.
pub(in crate::reaction) type Place = Option<ViewType>;

/// What the path finds in events of these kinds; the error says what can never be there.
pub(in crate::reaction) fn check(path: &Path, kinds: Kinds<'_>) -> Result<Place, String> {
    Checker { kinds }.segments(Some(ViewType::Event), &path.segments)
}

struct Checker<'d> {
    kinds: Kinds<'d>,
}

impl Checker<'_> {
    fn segments(&self, mut place: Place, segments: &[Segment]) -> Result<Place, String> {
        for segment in segments {
            place = match segment {
                Segment::Children(selectors) => self.children(place, selectors)?,
                Segment::Descendants(selectors) => {
                    selectors.iter().try_for_each(|selector| self.selector(None, selector).map(|_| ()))?;
                    None
                }
            };
        }
        Ok(place)
    }

    fn children(&self, place: Place, selectors: &[Selector]) -> Result<Place, String> {
        let mut found = None;
        for selector in selectors {
            found = self.selector(place, selector)?;
        }
        Ok(if selectors.len() == 1 { found } else { None })
    }

    fn selector(&self, place: Place, selector: &Selector) -> Result<Place, String> {
        match selector {
            Selector::Name(name) => match place {
                Some(place) => member(place, name, self.kinds),
                None => Ok(None),
            },
            Selector::Index(_) | Selector::Slice { .. } => match place {
                None | Some(ViewType::Struct) => Ok(None),
                Some(ViewType::List(element)) => Ok(Some(element.holds())),
                Some(other) => Err(format!("takes an element by its index of {}, which is no list", describe(other))),
            },
            Selector::Wildcard => self.each(place),
            Selector::Filter(filter) => {
                let element = self.each(place)?;
                self.logical(element, filter)?;
                Ok(element)
            }
        }
    }

    /// What `*` and filters range over.
    fn each(&self, place: Place) -> Result<Place, String> {
        match place {
            Some(ViewType::List(element) | ViewType::Map(element)) => Ok(Some(element.holds())),
            None | Some(ViewType::Event | ViewType::Message(_) | ViewType::Struct) => Ok(None),
            Some(scalar) => Err(format!("looks for members of {}", describe(scalar))),
        }
    }

    fn logical(&self, node: Place, logical: &Logical) -> Result<(), String> {
        match logical {
            Logical::Any(parts) | Logical::All(parts) => parts.iter().try_for_each(|part| self.logical(node, part)),
            Logical::Not(inner) => self.logical(node, inner),
            Logical::Exists(query) => self.query(node, query),
            Logical::Compare(left, _, right) => {
                self.comparable(node, left)?;
                self.comparable(node, right)
            }
            Logical::Matches { subject, pattern, .. } => {
                self.comparable(node, subject)?;
                match pattern {
                    PatternOf::Constant(_) => Ok(()),
                    PatternOf::Found(found) => self.comparable(node, found),
                }
            }
        }
    }

    fn comparable(&self, node: Place, comparable: &Comparable) -> Result<(), String> {
        match comparable {
            Comparable::Literal(_) => Ok(()),
            Comparable::Length(inner) => self.comparable(node, inner),
            Comparable::Singular(query) | Comparable::Count(query) | Comparable::ValueOf(query) => {
                self.query(node, query)
            }
        }
    }

    fn query(&self, node: Place, query: &Query) -> Result<(), String> {
        let from = if query.from_root { Some(ViewType::Event) } else { node };
        self.segments(from, &query.segments).map(|_| ())
    }
}

/// What the member of that name holds; the error says why there is none.
pub(in crate::reaction) fn member(place: ViewType, name: &str, kinds: Kinds<'_>) -> Result<Place, String> {
    match place {
        ViewType::Struct => Ok(None),
        ViewType::Map(value) => Ok(Some(value.holds())),
        ViewType::Event | ViewType::Message(_) => {
            let Some(field) = place.field(name) else {
                return Err(format!("names an unknown field `{}`{}", shown(name), suggestion(name, place.fields())));
            };
            if let (ViewType::Event, Some(kind)) = (place, payload(name))
                && !kinds.include(kind)
            {
                return Err(format!("names `{name}`, which events of this category and type never have"));
            }
            Ok(Some(field))
        }
        other => Err(format!("names a field `{}` of {}", shown(name), describe(other))),
    }
}

/// A name from the document, short enough to be repeated.
pub(in crate::reaction) fn shown(name: &str) -> String {
    const CHARS_MAX: usize = 64;
    name.chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect()
}

/// A type in the words of its owner.
pub(in crate::reaction) fn describe(place: ViewType) -> &'static str {
    match place {
        ViewType::Event => "the event",
        ViewType::String => "a string",
        ViewType::Bool => "a bool",
        ViewType::Int => "an integer",
        ViewType::Double => "a number",
        ViewType::Enum(_) => "a name of a fixed set",
        ViewType::Message(_) | ViewType::Struct => "an object",
        ViewType::List(_) => "a list",
        ViewType::Map(_) => "a map",
    }
}
