//! What an event costs the reaction: with nothing to match it, and with a thousand rules in force.

use std::hint::black_box;
use std::sync::Arc;

use causality::reaction::{Candidates, Filters, Index, Matcher, View};
use causality::store::NewRule;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Value, json};

const RULES: usize = 1_000;
const SUBJECTS: usize = 200;

fn view() -> Value {
    json!({
        "id": "0190c0de-0000-7000-8000-000000000001", "app_id": "shop7", "device_id": "device-1",
        "timestamp_ms": 1_763_800_000_000i64, "correlation_id": "",
        "device_context": {"platform": "PLATFORM_IOS", "os_version": "18.1", "app_version": "4.2.0", "locale": "de_DE"},
        "purchase_complete": {"order_id": "o-1", "cart_id": "c-1", "item_count": 2, "total_cents": 12_500, "currency": "EUR",
            "payment_method": "card", "items": [{"product_id": "p-1", "quantity": 2, "price_cents": 6_250}]},
    })
}

/// Conditions as people write them; one rule in a hundred matches the event.
fn rule(n: usize) -> NewRule {
    let cents = if n.is_multiple_of(100) { 10_000 } else { 1_000_000 + n };
    let condition = match n % 4 {
        0 => json!({"path": "$.purchase_complete.total_cents", "operator": "gte", "value": cents}),
        1 => json!({"path": "$.purchase_complete.currency", "operator": "in", "value": ["USD", "GBP"]}),
        2 => json!({"path": "$.device_context.platform", "operator": "eq", "value": "PLATFORM_WEB"}),
        _ => json!({"path": "$.purchase_complete.payment_method", "operator": "regex", "value": "^(paypal|klarna)$"}),
    };
    serde_json::from_value(json!({"name": format!("rule {n}"), "conditions": [condition]})).expect("rule document")
}

fn compile(rules: impl Iterator<Item = NewRule>) -> Vec<Matcher> {
    rules.map(|rule| Matcher::compile(&rule).expect("compile rule")).collect()
}

/// A thousand rules for a hundred apps and ten types each.
fn spread_index() -> Index {
    let mut index = Index::default();
    for (n, matcher) in compile((0..RULES).map(rule)).iter().enumerate() {
        let (app, event_type) = (format!("shop{}", n % 100), format!("type{}", n / 100));
        let filters = Filters { app: Some(&app), category: Some("commerce"), event_type: Some(&event_type) };
        index.add_rule(n as u32, filters, matcher);
    }
    index
}

/// The rules without filters, as an event finds them.
fn candidates(matchers: &[Matcher]) -> Arc<Candidates> {
    let mut index = Index::default();
    for (position, matcher) in matchers.iter().enumerate() {
        index.add_rule(position as u32, Filters { app: None, category: None, event_type: None }, matcher);
    }
    Arc::clone(index.candidates(b"events.shop7.commerce.purchase_complete").expect("candidates"))
}

fn bench_index(c: &mut Criterion) {
    let mut group = c.benchmark_group("index");
    group.throughput(Throughput::Elements(SUBJECTS as u64));
    let misses: Vec<String> = (0..SUBJECTS).map(|n| format!("events.shop{}.screen.view{n}", n % 100)).collect();
    let mut index = spread_index();
    group.bench_function("miss, 1,000 rules", |b| {
        b.iter(|| misses.iter().filter(|subject| index.candidates(subject.as_bytes()).is_some()).count());
    });
    let mut empty = Index::default();
    group.bench_function("miss, no rules", |b| {
        b.iter(|| misses.iter().filter(|subject| empty.candidates(subject.as_bytes()).is_some()).count());
    });
    let mut n = 0u64;
    group.bench_function("miss, never seen before", |b| {
        b.iter(|| {
            n += SUBJECTS as u64;
            (0..SUBJECTS as u64)
                .filter(|i| index.candidates(format!("events.shop.custom.t{}", n + i).as_bytes()).is_some())
                .count()
        });
    });
    group.finish();
}

fn bench_match(c: &mut Criterion) {
    let value = view();
    let mut group = c.benchmark_group("match");
    let all = compile((0..RULES).map(rule));
    let few = candidates(&all[..10]);
    group.bench_function("1 event, 1,000 rules spread over apps and types", |b| {
        b.iter_batched(
            || View::from(value.clone()),
            |view| few.matches(black_box(&view), |position| &all[position as usize], || false),
            criterion::BatchSize::SmallInput,
        );
    });
    let unfiltered = candidates(&all);
    let matching =
        (0..RULES as u32).filter(|position| all[*position as usize].matches(&View::from(value.clone())) == Ok(true));
    let matched = unfiltered.matches(&View::from(value.clone()), |position| &all[position as usize], || false);
    assert_eq!(matched.expect("match").rules, matching.collect::<Vec<_>>());
    group.bench_function("1 event, 1,000 rules without filters", |b| {
        b.iter_batched(
            || View::from(value.clone()),
            |view| unfiltered.matches(black_box(&view), |position| &all[position as usize], || false),
            criterion::BatchSize::SmallInput,
        );
    });
    group.bench_function("1 event, 1,000 rules without filters, one by one", |b| {
        b.iter_batched(
            || View::from(value.clone()),
            |view| all.iter().filter(|matcher| matcher.matches(black_box(&view)) == Ok(true)).count(),
            criterion::BatchSize::SmallInput,
        );
    });
    let expressions = compile((0..10).map(|n| {
        let expression =
            format!("event.device_context.platform == 'PLATFORM_IOS' && event.purchase_complete.total_cents > {n}");
        serde_json::from_value(json!({"name": "cel", "expression": expression})).expect("rule document")
    }));
    group.bench_function("1 event, 10 expressions", |b| {
        b.iter_batched(
            || View::from(value.clone()),
            |view| expressions.iter().filter(|matcher| matcher.matches(black_box(&view)) == Ok(true)).count(),
            criterion::BatchSize::SmallInput,
        );
    });
    let deep: NewRule = serde_json::from_value(json!({"name": "jsonpath", "conditions": [
        {"path": "$.purchase_complete.items[?@.quantity > 1].product_id", "operator": "eq", "value": "p-1"}]}))
    .expect("rule document");
    let deep = compile(std::iter::once(deep));
    group.bench_function("1 event, 1 JSONPath filter", |b| {
        let view = View::from(value.clone());
        b.iter(|| deep[0].matches(black_box(&view)));
    });
    // What the evaluator of our own is measured against.
    let library = jsonpath_rust::parser::parse_json_path("$.purchase_complete.items[?@.quantity > 1].product_id");
    let library = library.expect("parse path");
    group.bench_function("1 event, 1 JSONPath filter, by jsonpath-rust", |b| {
        b.iter(|| jsonpath_rust::query::js_path_process(black_box(&library), &value).map(|found| found.len()));
    });
    group.finish();
}

criterion_group!(benches, bench_index, bench_match);
criterion_main!(benches);
