//! Recognizes macros by their expansion: the parser expands them before we see the tree.

use cel_interpreter::common::ast::{ComprehensionExpr, Expr, IdedExpr, operators};

use super::tree::MacroKind;

/// The macro that the parser expanded to this comprehension, its body, and the predicate of `map` and `filter`.
pub(super) fn recognize(each: &ComprehensionExpr) -> Option<(MacroKind, &IdedExpr, Option<&IdedExpr>)> {
    let is_result = |node: &IdedExpr| matches!(&node.expr, Expr::Ident(name) if *name == each.accu_var);
    let Expr::Call(step) = &each.loop_step.expr else { return None };
    // `@result + [x]`.
    let appended = |node: &IdedExpr| -> bool {
        matches!(&node.expr, Expr::Call(add) if add.func_name == operators::ADD && matches!(add.args.as_slice(),
            [result, IdedExpr { expr: Expr::List(list), .. }] if is_result(result) && list.elements.len() == 1))
    };
    match (step.func_name.as_str(), step.args.as_slice()) {
        (operators::LOGICAL_AND, [result, test]) if is_result(result) => Some((MacroKind::All, test, None)),
        (operators::LOGICAL_OR, [result, test]) if is_result(result) => Some((MacroKind::Exists, test, None)),
        (operators::ADD, [_, _]) if appended(&each.loop_step) => {
            element(&each.loop_step).map(|body| (MacroKind::Map, body, None))
        }
        (operators::CONDITIONAL, [test, then, otherwise]) if is_result(otherwise) => {
            if appended(then) {
                return element(then).map(|body| (MacroKind::Map, body, Some(test)));
            }
            // `@result + 1`.
            let counts = matches!(&then.expr, Expr::Call(add) if add.func_name == operators::ADD);
            counts.then_some((MacroKind::ExistsOne, test, None))
        }
        _ => None,
    }
}

/// The `x` of `@result + [x]`.
fn element(add: &IdedExpr) -> Option<&IdedExpr> {
    let Expr::Call(add) = &add.expr else { return None };
    match add.args.as_slice() {
        [_, IdedExpr { expr: Expr::List(list), .. }] => list.elements.first(),
        _ => None,
    }
}
