//! What the seeds came by, so that it is known what was tested.
//!
//! Never a promise by itself.

/// How often the seeds came by each of these; what never happens is not tested.
macro_rules! seen {
    ($($name:ident),* $(,)?) => {
        #[derive(Clone, Copy, Debug, Default)]
        pub(crate) struct Seen {
            $(pub(crate) $name: u64,)*
        }

        impl Seen {
            pub(crate) fn plus(self, other: Seen) -> Seen {
                Seen { $($name: self.$name + other.$name,)* }
            }

            /// What was not come by.
            pub(crate) fn never(&self) -> Vec<&'static str> {
                [$((stringify!($name), self.$name)),*].iter().filter(|seen| seen.1 == 0).map(|seen| seen.0).collect()
            }
        }
    };
}

seen!(
    attempts,
    delivered,
    failed,
    retries,
    clamped,
    canceled,
    gone,
    gone_too_late,
    given_back,
    pages,
    pages_with_more,
    pages_failed,
    pages_outdated,
    overtaken,
    recalled,
    recalls_refused,
    held,
    crashes,
    repeated,
    turns_awaited,
    failing,
    expired,
    moved,
    excused,
    put_off,
    ajar,
);
