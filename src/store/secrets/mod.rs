//! Recognizing, masking and sealing the secrets of webhooks.

mod masking;
mod sealer;
mod secret_text;

pub(super) use masking::{MASK, has_masked_parts, is_secret_header, masked_url, restore_url, same_origin};
pub(super) use sealer::{KEY_FILE, Sealer, wrong_key};
pub(super) use secret_text::looks_secret;
