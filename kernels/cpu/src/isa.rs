//! Which instructions the kernels use. Chosen once, at start.

use std::fmt;

/// A family of kernels. Later ones are faster and need more of the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IsaLevel {
    /// Plain Rust, any CPU.
    Portable,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// AVX-512F, BW and VL; bf16 weights are widened and multiplied in f32.
    Avx512,
    /// AVX-512 with bf16 dot products; activations of bf16 models are rounded to bf16 before each product.
    Avx512Bf16,
}

impl IsaLevel {
    /// Every level, plainest first.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16];

    /// Whether this CPU can run it.
    #[must_use]
    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        let avx2 = || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = || {
            avx2()
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
        };
        match self {
            Self::Portable => true,
            Self::Avx2 => avx2(),
            Self::Avx512 => avx512(),
            Self::Avx512Bf16 => avx512() && is_x86_feature_detected!("avx512bf16"),
        }
    }

    /// Whether this CPU can run it.
    #[must_use]
    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_available(self) -> bool {
        self == Self::Portable
    }
}

impl fmt::Display for IsaLevel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512-bf16",
        })
    }
}

/// Proof that this CPU can run a level: there is no other way to get one than to ask the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Isa(IsaLevel);

impl Isa {
    /// The level as a proof; none when this CPU lacks it.
    pub(crate) fn new(level: IsaLevel) -> Option<Self> {
        level.is_available().then_some(Self(level))
    }

    /// The best this CPU has.
    pub(crate) fn best() -> Self {
        let best = IsaLevel::ALL.into_iter().rev().find_map(Self::new);
        best.expect("every CPU runs the portable level")
    }

    pub(crate) fn level(self) -> IsaLevel {
        self.0
    }
}

/// Defines `pub(crate) fn $name(isa, arguments...)` that runs `$body::<Arithmetic>(arguments...)`, a generic function
/// marked `#[inline(always)]`, compiled once for each level. For loops that the compiler vectorises well by itself.
macro_rules! for_each_isa {
    ($(#[$doc:meta])* $visibility:vis fn $name:ident / $body:ident ( $($argument:ident : $kind:ty),* $(,)? )) => {
        $(#[$doc])*
        $visibility fn $name(isa: crate::isa::Isa, $($argument: $kind),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $kind),*) {
                    $body::<crate::math::Fused>($($argument),*);
                }
                #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl")]
                fn avx512($($argument: $kind),*) {
                    $body::<crate::math::Fused>($($argument),*);
                }
                match isa.level() {
                    crate::IsaLevel::Portable => {}
                    crate::IsaLevel::Avx2 => {
                        // SAFETY: an `Isa` of this level exists only where the CPU has avx2 and fma.
                        return unsafe { avx2($($argument),*) };
                    }
                    crate::IsaLevel::Avx512 | crate::IsaLevel::Avx512Bf16 => {
                        // SAFETY: an `Isa` of these levels exists only where the CPU has avx512f, bw and vl.
                        return unsafe { avx512($($argument),*) };
                    }
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = isa;
            $body::<crate::math::Plain>($($argument),*);
        }
    };
}
pub(crate) use for_each_isa;
