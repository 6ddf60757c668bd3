//! Enumerations that programs outside know by words.

/// Declares an enumeration with the word of each value.
macro_rules! worded {
    (
        $(#[$about:meta])*
        $visible:vis enum $name:ident {
            $($(#[$meaning:meta])* $value:ident = $word:literal,)*
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visible enum $name {
            $($(#[$meaning])* $value,)*
        }

        impl $name {
            /// As they are declared.
            pub const ALL: &'static [Self] = &[$(Self::$value),*];

            /// For programs: it stays.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$value => $word,)*
                }
            }
        }
    };
}

pub(crate) use worded;
