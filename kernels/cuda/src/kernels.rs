//! The kernels' names for one executor: they depend on its element type and head size.

use vlinders_kernel_api::Dtype;

use crate::coded::Code;
use crate::linear::{Finish, Variant};

/// What becomes of a product, of what weights, by which kernel.
type Way = (Finish, Option<Code>, Variant);

/// Names, made once.
pub(crate) struct KernelNames {
    pub(crate) embed: String,
    pub(crate) rms_norm: String,
    pub(crate) rotary_append: String,
    pub(crate) attention_decode: String,
    pub(crate) attention_combine: String,
    pub(crate) attention_prefill: String,
    linears: Vec<(Way, String)>,
}

/// Attention of f32, every token by itself.
pub(crate) const ATTENTION_F32: &str = "vl_attention_f32";
/// Sums of hidden states.
pub(crate) const POOL: &str = "vl_pool";

impl KernelNames {
    pub(crate) fn of(dtype: Dtype, head_dim: u32) -> Self {
        let name = dtype.name();
        let finishes = [
            (Finish::Store, "store"),
            (Finish::Add, "add"),
            (Finish::Silu, "silu"),
        ];
        let mut linears = Vec::new();
        for (finish, word) in finishes {
            for code in [None, Some(Code::Int4), Some(Code::Fp8)] {
                let code_name = code.map_or_else(String::new, |code| format!("_{}", code.name()));
                for variant in Variant::ALL {
                    let suffix = variant.suffix();
                    let full = format!("vl_linear_{word}_{name}{code_name}{suffix}");
                    linears.push(((finish, code, variant), full));
                }
            }
        }
        Self {
            embed: format!("vl_embed_{name}"),
            rms_norm: format!("vl_rms_norm_{name}"),
            rotary_append: format!("vl_rotary_append_{name}"),
            attention_decode: format!("vl_attention_decode_{name}_d{head_dim}"),
            attention_combine: format!("vl_attention_combine_{name}"),
            attention_prefill: format!("vl_attention_prefill_{name}_d{head_dim}"),
            linears,
        }
    }

    /// The kernel that multiplies in this way.
    pub(crate) fn linear(&self, finish: Finish, code: Option<Code>, variant: Variant) -> &str {
        let mut names = self.linears.iter();
        let found = names.find(|(key, _)| *key == (finish, code, variant));
        &found.expect("every way has a name").1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_type_head_and_way() {
        let names = KernelNames::of(Dtype::Bf16, 128);
        assert_eq!(names.attention_decode, "vl_attention_decode_bf16_d128");
        assert_eq!(
            names.linear(Finish::Silu, None, Variant::Tiled(64)),
            "vl_linear_silu_bf16_t64"
        );
        assert_eq!(
            names.linear(Finish::Store, Some(Code::Fp8), Variant::Skinny(8)),
            "vl_linear_store_bf16_fp8_m8"
        );
        let names = KernelNames::of(Dtype::F32, 24);
        assert_eq!(
            names.linear(Finish::Add, None, Variant::Plain),
            "vl_linear_add_f32"
        );
    }
}
