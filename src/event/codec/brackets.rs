//! The open brackets of a JSON text, one bit each: a body of nothing but brackets takes an eighth of its size.

#[derive(Default)]
pub(super) struct Brackets {
    objects: Vec<u64>,
    depth: usize,
}

impl Brackets {
    pub(super) fn push(&mut self, object: bool) {
        let (word, bit) = (self.depth / 64, self.depth % 64);
        if word == self.objects.len() {
            self.objects.push(0);
        }
        self.objects[word] = self.objects[word] & !(1 << bit) | u64::from(object) << bit;
        self.depth += 1;
    }

    /// Whether the innermost is an object. `None` when nothing is open.
    pub(super) fn last(&self) -> Option<bool> {
        let last = self.depth.checked_sub(1)?;
        Some(self.objects[last / 64] >> (last % 64) & 1 == 1)
    }

    pub(super) fn pop(&mut self) {
        self.depth -= 1;
    }
}
