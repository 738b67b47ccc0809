//! One method of one path.

use serde_json::{Map, Value, json};

use super::reference::{PROBLEM_TYPE, header_reference, headers};
use super::refusal::Refusal;

/// An operation under construction.
pub struct Operation {
    pub(super) tag: &'static str,
    value: Value,
    answers: Map<String, Value>,
    pub(super) refused: Vec<u16>,
    /// Content of refusals in addition to problems: a media type and its schema.
    refusal_content: Map<String, Value>,
    /// Headers of individual answers and refusals.
    headers: Vec<(u16, &'static str)>,
}

impl Operation {
    /// `id` is its name in generated clients.
    pub fn new(tag: &'static str, id: &str, summary: &str) -> Self {
        Self {
            tag,
            value: json!({"operationId": id, "summary": summary, "tags": [tag]}),
            answers: Map::new(),
            refused: Vec::new(),
            refusal_content: Map::new(),
            headers: Vec::new(),
        }
    }

    pub fn about(mut self, description: impl Into<String>) -> Self {
        self.value["description"] = description.into().into();
        self
    }

    /// Adds a parameter, given as in OpenAPI.
    pub fn parameter(mut self, parameter: Value) -> Self {
        if let Some(parameters) = self.value.as_object_mut() {
            let all = parameters.entry("parameters").or_insert_with(|| json!([]));
            all.as_array_mut().into_iter().for_each(|all| all.push(parameter.clone()));
        }
        self
    }

    /// Media types with their schemas and examples.
    pub fn body(mut self, content: Value) -> Self {
        self.value["requestBody"] = json!({"required": true, "content": content});
        self
    }

    pub fn security(mut self, security: Value) -> Self {
        self.value["security"] = security;
        self
    }

    pub fn extension(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.value[name] = value.into();
        self
    }

    /// An answer with a body: media types with their schemas.
    pub fn answer(self, status: u16, description: &str, content: Value) -> Self {
        self.answer_with(status, json!({"description": description, "content": content}))
    }

    pub fn answer_without_body(self, status: u16, description: &str) -> Self {
        self.answer_with(status, json!({"description": description}))
    }

    /// A complete response, given as in OpenAPI.
    pub fn answer_with(mut self, status: u16, response: Value) -> Self {
        self.answers.insert(status.to_string(), response);
        self
    }

    pub fn refused(mut self, statuses: &[u16]) -> Self {
        self.refused.extend(statuses);
        self
    }

    /// Adds a media type to the refusals.
    pub fn refused_also_as(mut self, media_type: &str, content: Value) -> Self {
        self.refusal_content.insert(media_type.to_owned(), content);
        self
    }

    /// Headers that replies with these statuses may have, in addition to the common ones.
    pub fn headers(mut self, statuses: &[u16], names: &[&'static str]) -> Self {
        let each = statuses.iter().flat_map(|status| names.iter().map(|name| (*status, *name)));
        self.headers.extend(each);
        self
    }

    pub(super) fn finish<'r>(mut self, refusal: impl Fn(u16) -> Option<&'r Refusal>, common_headers: &[&str]) -> Value {
        for answer in self.answers.values_mut() {
            let Value::Object(common) = headers(common_headers.iter()) else { continue };
            if let Value::Object(own) = &mut answer["headers"] {
                own.extend(common);
            } else {
                answer["headers"] = common.into();
            }
        }
        for status in &self.refused {
            let Some(refusal) = refusal(*status) else { continue };
            let mut response = json!({"$ref": format!("#/components/responses/{}", refusal.name)});
            // The operation has its own answer with this status, or other content types.
            if let Some(own) = self.answers.get(&status.to_string()) {
                response = own.clone();
                response["content"][PROBLEM_TYPE] = refusal.content();
                if let (Value::Object(own), Value::Object(more)) =
                    (&mut response["headers"], &mut refusal.response(common_headers)["headers"])
                {
                    own.append(more);
                }
            } else if !self.refusal_content.is_empty() && !refusal.example.is_empty() {
                response = refusal.response(common_headers);
                if let Some(content) = response["content"].as_object_mut() {
                    content.extend(self.refusal_content.clone());
                }
            }
            self.answers.insert(status.to_string(), response);
        }
        for (status, name) in &self.headers {
            let Some(answer) = self.answers.get_mut(&status.to_string()) else { continue };
            // The shared refusal does not have this header.
            if answer.get("$ref").is_some()
                && let Some(refusal) = refusal(*status)
            {
                *answer = refusal.response(common_headers);
            }
            answer["headers"][*name] = header_reference(name);
        }
        self.value["responses"] = self.answers.into();
        self.value
    }
}
