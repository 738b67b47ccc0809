//! Maps track calls to kinds of events: names in Segment's e-commerce, mobile and B2B specifications have their own
//! kinds, all others become custom events (<https://segment.com/docs/connections/spec/>).

use super::json::{Object, Value};
use super::value::{cents, count, currency, is_text, text, whole};
use crate::event::proto::event_envelope::Payload;
use crate::event::proto::{
    AddToCart, AppBackground, AppCrash, AppForeground, AppStart, CheckoutStart, CheckoutStep, ProductView,
    PurchaseComplete, PurchaseFailed, PurchaseItem, RemoveFromCart, UserLogin, UserLogout, UserSignup,
};

/// Products of an order that become items. If there are more, all stay in the properties.
const ITEMS_MAX: usize = 1_000;
// `id` and `orderId` come from the first version of the specification, which some SDKs still use (analytics-go).
const PRODUCT_ID: &[&str] = &["product_id", "productId", "id"];
const ORDER_ID: &[&str] = &["order_id", "orderId"];
const PRODUCT_NAME: &[&str] = &["name", "product_name"];
const CART_ID: &[&str] = &["cart_id", "checkout_id"];
const PRICE: &[&str] = &["price"];
const QUANTITY: &[&str] = &["quantity"];
const PAYMENT_METHOD: &[&str] = &["payment_method"];
const METHOD: &[&str] = &["method", "type"];

type MakePayload = fn(&mut Object<'_>, user_id: &str) -> Option<Payload>;

const KNOWN: &[(&str, MakePayload)] = &[
    ("Product Viewed", product_viewed),
    ("Product Added", product_added),
    ("Product Removed", product_removed),
    ("Checkout Started", checkout_started),
    ("Checkout Step Completed", checkout_step_completed),
    ("Order Completed", order_completed),
    ("Payment Failed", payment_failed),
    ("Application Opened", application_opened),
    ("Application Backgrounded", application_backgrounded),
    ("Application Foregrounded", application_foregrounded),
    ("Application Crashed", application_crashed),
    ("Signed Up", signed_up),
    ("Signed In", signed_in),
    ("Logged In", signed_in),
    ("Signed Out", signed_out),
    ("Logged Out", signed_out),
];

/// The payload for an event name, with its fields moved out of the properties. `None` if the name is unknown, or a
/// field that the kind requires is missing.
pub(super) fn known(name: &str, properties: &mut Object<'_>, user_id: &str) -> Option<Payload> {
    let name = name.trim();
    let (_, make) = KNOWN.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
    make(properties, user_id)
}

/// Whether one of these members is text or a number.
fn has(properties: &Object<'_>, names: &[&str]) -> bool {
    names.iter().any(|name| is_text(properties.get(name)))
}

fn product_viewed(of: &mut Object<'_>, _: &str) -> Option<Payload> {
    has(of, PRODUCT_ID).then(|| {
        Payload::ProductView(ProductView {
            product_id: text(of, PRODUCT_ID),
            product_name: text(of, PRODUCT_NAME),
            category: text(of, &["category"]),
            price_cents: cents(of, PRICE),
            currency: currency(of),
            source: text(of, &["source"]),
            properties: None,
        })
    })
}

fn product_added(of: &mut Object<'_>, _: &str) -> Option<Payload> {
    has(of, PRODUCT_ID).then(|| {
        Payload::AddToCart(AddToCart {
            product_id: text(of, PRODUCT_ID),
            product_name: text(of, PRODUCT_NAME),
            quantity: count(of, QUANTITY),
            price_cents: cents(of, PRICE),
            currency: currency(of),
            cart_id: text(of, CART_ID),
            properties: None,
        })
    })
}

fn product_removed(of: &mut Object<'_>, _: &str) -> Option<Payload> {
    has(of, PRODUCT_ID).then(|| {
        Payload::RemoveFromCart(RemoveFromCart {
            product_id: text(of, PRODUCT_ID),
            quantity: count(of, QUANTITY),
            cart_id: text(of, CART_ID),
            reason: text(of, &["reason"]),
            properties: None,
        })
    })
}

fn checkout_started(of: &mut Object<'_>, _: &str) -> Option<Payload> {
    Some(Payload::CheckoutStart(CheckoutStart {
        cart_id: text(of, &["cart_id", "checkout_id", "order_id", "orderId"]),
        item_count: pieces(of.get("products")),
        total_cents: cents(of, &["total", "value", "revenue"]),
        currency: currency(of),
        properties: None,
    }))
}

fn checkout_step_completed(of: &mut Object<'_>, _: &str) -> Option<Payload> {
    Some(Payload::CheckoutStep(CheckoutStep {
        cart_id: text(of, CART_ID),
        step_number: count(of, &["step"]),
        step_name: text(of, &["step_name"]),
        step_duration_ms: whole(of, &["step_duration_ms"], i64::MAX).unwrap_or_default(),
        properties: None,
    }))
}

fn order_completed(of: &mut Object<'_>, _: &str) -> Option<Payload> {
    has(of, ORDER_ID).then(|| {
        Payload::PurchaseComplete(PurchaseComplete {
            order_id: text(of, ORDER_ID),
            cart_id: text(of, CART_ID),
            item_count: pieces(of.get("products")),
            total_cents: cents(of, &["total", "revenue", "value"]),
            currency: currency(of),
            payment_method: text(of, PAYMENT_METHOD),
            items: items(of),
            properties: None,
        })
    })
}

fn payment_failed(of: &mut Object<'_>, _: &str) -> Option<Payload> {
    Some(Payload::PurchaseFailed(PurchaseFailed {
        cart_id: text(of, CART_ID),
        error_code: text(of, &["error_code", "code"]),
        error_message: text(of, &["error_message", "error", "message"]),
        payment_method: text(of, PAYMENT_METHOD),
        checkout_step: count(of, &["step", "checkout_step"]),
        properties: None,
    }))
}

fn application_opened(of: &mut Object<'_>, _: &str) -> Option<Payload> {
    let from_background = match of.get("from_background") {
        Some(Value::Bool(from_background)) => Some(*from_background),
        _ => None,
    };
    if from_background.is_some() {
        of.remove("from_background");
    }
    Some(Payload::AppStart(AppStart {
        is_cold_start: from_background == Some(false),
        launch_duration_ms: whole(of, &["launch_duration_ms"], i64::MAX).unwrap_or_default(),
        launch_source: text(of, &["referring_application"]),
        deeplink_url: text(of, &["url"]),
        properties: None,
    }))
}

fn application_backgrounded(of: &mut Object<'_>, _: &str) -> Option<Payload> {
    Some(Payload::AppBackground(AppBackground {
        foreground_duration_ms: whole(of, &["foreground_duration_ms"], i64::MAX).unwrap_or_default(),
        current_screen: text(of, &["current_screen"]),
        properties: None,
    }))
}

fn application_foregrounded(of: &mut Object<'_>, _: &str) -> Option<Payload> {
    Some(Payload::AppForeground(AppForeground {
        background_duration_ms: whole(of, &["background_duration_ms"], i64::MAX).unwrap_or_default(),
        resume_screen: text(of, &["resume_screen"]),
        properties: None,
    }))
}

fn application_crashed(of: &mut Object<'_>, _: &str) -> Option<Payload> {
    Some(Payload::AppCrash(AppCrash {
        crash_type: text(of, &["crash_type", "exception"]),
        crash_message: text(of, &["crash_message", "message", "reason"]),
        stack_trace: text(of, &["stack_trace", "stacktrace"]),
        current_screen: text(of, &["current_screen"]),
        properties: None,
    }))
}

fn signed_up(of: &mut Object<'_>, user_id: &str) -> Option<Payload> {
    Some(Payload::UserSignup(UserSignup {
        user_id: user_id.to_owned(),
        method: text(of, METHOD),
        referral_source: text(of, &["referral_source"]),
        properties: None,
    }))
}

fn signed_in(of: &mut Object<'_>, user_id: &str) -> Option<Payload> {
    Some(Payload::UserLogin(UserLogin {
        user_id: user_id.to_owned(),
        method: text(of, METHOD),
        is_new_user: false,
        properties: None,
    }))
}

fn signed_out(of: &mut Object<'_>, user_id: &str) -> Option<Payload> {
    let reason = text(of, &["reason"]);
    Some(Payload::UserLogout(UserLogout { user_id: user_id.to_owned(), reason, properties: None }))
}

/// How many pieces an order has: of each product its quantity, or one.
fn pieces(products: Option<&Value<'_>>) -> i32 {
    let Some(Value::Array(products)) = products else { return 0 };
    let quantity = |product: &Value<'_>| match product.get("quantity") {
        Some(Value::Number(quantity)) => quantity.as_i64().unwrap_or(1).max(0),
        _ => 1,
    };
    let pieces = products.iter().map(quantity).fold(0i64, i64::saturating_add);
    i32::try_from(pieces).unwrap_or(i32::MAX)
}

/// The products of an order as items. Moves the fields of an item out of each product; products with other fields stay.
fn items(of: &mut Object<'_>) -> Vec<PurchaseItem> {
    let Some(Value::Array(products)) = of.get_mut("products") else { return Vec::new() };
    if products.len() > ITEMS_MAX || products.iter().any(|product| product.as_object().is_none()) {
        return Vec::new();
    }
    let item = |product: &mut Value<'_>| {
        let Value::Object(product) = product else { return PurchaseItem::default() };
        PurchaseItem {
            product_id: text(product, PRODUCT_ID),
            product_name: text(product, PRODUCT_NAME),
            quantity: count(product, QUANTITY),
            price_cents: cents(product, PRICE),
        }
    };
    let items = products.iter_mut().map(item).collect();
    if products.iter().all(|product| product.as_object().is_some_and(Object::is_empty)) {
        of.remove("products");
    }
    items
}
