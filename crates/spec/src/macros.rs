//! The three kinds of items this crate is made of, so that each file is only names and numbers.

/// Wire structs: `pub struct Name: SIZE { fields }`, in the order of the document, size checked at compile time.
macro_rules! wire {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident: $size:literal { $( $(#[$fmeta:meta])* pub $field:ident: $ty:ty, )* }
    )*) => {$(
        $(#[$meta])*
        #[derive(
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable,
            zerocopy::Unaligned, Clone, Copy, Debug, PartialEq, Eq,
        )]
        #[repr(C)]
        pub struct $name { $( $(#[$fmeta])* pub $field: $ty, )* }

        impl $name {
            /// Bytes on the wire.
            pub const SIZE: usize = $size;
        }

        impl Default for $name {
            fn default() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        }

        const _: () = assert!(size_of::<$name>() == $size);
    )*};
}

/// Codes: an open newtype over the integer on the wire, with the document's values as constants.
macro_rules! codes {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident: $int:ty { $( $(#[$vmeta:meta])* $value:ident = $number:literal $($alias:literal)?, )* }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $int);

        impl $name {
            $( $(#[$vmeta])* $(#[doc(alias = $alias)])? pub const $value: Self = Self($number); )*

            /// The document's name without its prefix, if the value has one.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $( Self::$value => Some(stringify!($value)), )*
                    _ => None,
                }
            }
        }

        impl From<$int> for $name {
            fn from(value: $int) -> Self {
                Self(value)
            }
        }

        impl From<$name> for $int {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, concat!(stringify!($name), "({})"), self.0),
                }
            }
        }
    )*};
}

/// Feature bits of one device type: constants of `F`, and the table of their names.
macro_rules! feature_bits {
    (
        $(#[$meta:meta])*
        pub enum F { $( $(#[$vmeta:meta])* $value:ident = $bit:literal $alias:literal, )* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        pub enum F {}

        impl F {
            $( $(#[$vmeta])* #[doc(alias = $alias)] pub const $value: $crate::Features = $crate::Features::bit($bit); )*

            pub(crate) const NAMES: &[(u32, &'static str)] = &[$( ($bit, stringify!($value)), )*];
        }
    };
}
