//! The kernels' names for one executor: they depend on its element type and head size.

use vlinders_kernel_api::Dtype;

use crate::linear::{Finish, Variant};

/// Names, made once.
pub(crate) struct KernelNames {
    pub(crate) embed: String,
    pub(crate) rms_norm: String,
    pub(crate) rotary_append: String,
    pub(crate) attention_decode: String,
    pub(crate) attention_combine: String,
    pub(crate) attention_prefill: String,
    linears: Vec<((Finish, Variant), String)>,
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
        let linears = finishes.into_iter().flat_map(|(finish, word)| {
            Variant::ALL.into_iter().map(move |variant| {
                let suffix = variant.suffix();
                ((finish, variant), format!("vl_linear_{word}_{name}{suffix}"))
            })
        });
        Self {
            embed: format!("vl_embed_{name}"),
            rms_norm: format!("vl_rms_norm_{name}"),
            rotary_append: format!("vl_rotary_append_{name}"),
            attention_decode: format!("vl_attention_decode_{name}_d{head_dim}"),
            attention_combine: format!("vl_attention_combine_{name}"),
            attention_prefill: format!("vl_attention_prefill_{name}_d{head_dim}"),
            linears: linears.collect(),
        }
    }

    /// The kernel that multiplies in this way.
    pub(crate) fn linear(&self, finish: Finish, variant: Variant) -> &str {
        let mut names = self.linears.iter();
        let found = names.find(|(key, _)| *key == (finish, variant));
        &found.expect("every pair has a name").1
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
            names.linear(Finish::Silu, Variant::Tiled(64)),
            "vl_linear_silu_bf16_t64"
        );
        let names = KernelNames::of(Dtype::F32, 24);
        assert_eq!(names.linear(Finish::Add, Variant::Plain), "vl_linear_add_f32");
    }
}
