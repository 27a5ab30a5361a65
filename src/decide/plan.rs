//! Small judgements about operations: where a path stood before a batch's moves.

use crate::model::path::TreePath;

/// The place a path had before these moves (in the order in which they are done).
#[must_use]
pub fn before_moves(path: &TreePath, moves: &[(TreePath, TreePath)]) -> TreePath {
    let mut at = path.clone();
    for (from, to) in moves.iter().rev() {
        if at.root == to.root
            && let Some(old) = at.path.rebase(&to.path, &from.path)
        {
            at = TreePath::new(from.root, old);
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::{RelPath, RootId};

    fn tp(root: u16, p: &str) -> TreePath {
        TreePath::new(RootId(root), RelPath::parse(p.as_bytes()).expect("safe"))
    }

    #[test]
    fn a_swap_of_directories_is_traced_back() {
        let moves = [
            (tp(0, "a"), tp(0, "slot")),
            (tp(0, "b"), tp(0, "a")),
            (tp(0, "slot"), tp(0, "b")),
        ];
        assert_eq!(before_moves(&tp(0, "a/x"), &moves), tp(0, "b/x"));
        assert_eq!(before_moves(&tp(0, "b/x"), &moves), tp(0, "a/x"));
        assert_eq!(before_moves(&tp(0, "c"), &moves), tp(0, "c"));
    }

    #[test]
    fn a_move_to_another_root_is_traced_back() {
        assert_eq!(
            before_moves(&tp(1, "n/x"), &[(tp(0, "d"), tp(1, "n"))]),
            tp(0, "d/x")
        );
    }
}
