//! What this machine can do at most, to print beside what the kernels reach.
//!
//! Each figure is the best of some short rounds on all given threads: on a shared machine the best is the least wrong.

use std::hint::black_box;
use std::time::{Duration, Instant};

use vlinders_kernel_api::KernelError;

use crate::IsaLevel;
use crate::isa::{Isa, for_each_isa};
use crate::math::{Arithmetic, LANES};
use crate::pool::Pool;
use crate::region::Region;

/// Memory that is read: several times any cache.
const MEMORY_BYTES: usize = 512 << 20;
/// How long rounds are repeated, of which the best counts: fresh threads may share a core for a while.
const MEASURED: Duration = Duration::from_millis(500);
/// Independent sums, enough to hide the latency of any multiplier.
const SUMS: usize = 8;
/// The same for dot products, which take longer.
const DOT_SUMS: usize = 24;
/// Products of each sum in a round: about ten milliseconds.
const STEPS: usize = 1_000_000;

/// Bytes a second that `threads` threads read from memory together, in order, each its own part.
///
/// # Errors
/// When there is not enough memory to read.
pub fn memory_read_bytes_per_s(threads: usize) -> Result<f64, KernelError> {
    let pool = Pool::new(threads);
    let mut region = Region::zeroed(MEMORY_BYTES, "the memory probe")?;
    // Touched, or every page would be the same page of zeros.
    region.as_mut_slice::<u8>().fill(1);
    let words = region.as_slice::<u64>();
    let isa = Isa::best();
    let seconds = best_seconds(&pool, &|thread, count| {
        let share = words.len() / count;
        black_box(read(isa, &words[thread * share..][..share]));
    });
    Ok(MEMORY_BYTES as f64 / seconds)
}

/// Multiplications and additions a second in f32, on the best path of this CPU.
#[must_use]
pub fn f32_flops(threads: usize) -> f64 {
    let pool = Pool::new(threads);
    let isa = Isa::best();
    let seconds = best_seconds(&pool, &|_, _| {
        let mut sums = [[1.0; LANES]; SUMS];
        multiply_add(isa, &mut sums, black_box(0.999));
        black_box(sums);
    });
    (pool.threads() * STEPS * SUMS * LANES * 2) as f64 / seconds
}

/// Multiplications and additions a second of bf16 dot products; none when this CPU has no such instruction.
#[must_use]
pub fn bf16_flops(threads: usize) -> Option<f64> {
    let isa = Isa::new(IsaLevel::Avx512Bf16)?;
    let pool = Pool::new(threads);
    let seconds = best_seconds(&pool, &|_, _| dot_products(isa));
    Some((pool.threads() * STEPS * DOT_SUMS * LANES * 4) as f64 / seconds)
}

fn best_seconds(pool: &Pool, work: &(dyn Fn(usize, usize) + Sync)) -> f64 {
    let started = Instant::now();
    let mut best = f64::INFINITY;
    while started.elapsed() < MEASURED {
        let begun = Instant::now();
        pool.run(work);
        best = best.min(begun.elapsed().as_secs_f64());
    }
    best
}

fn read(isa: Isa, words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if isa.level() >= IsaLevel::Avx512 {
        // SAFETY: an `Isa` of these levels exists only where the CPU has avx512f.
        return unsafe { crate::avx512::read_all(words) };
    }
    let _ = isa;
    let mut sums = [0_u64; 8];
    for words in words.as_chunks::<8>().0 {
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum |= *word;
        }
    }
    sums.iter().fold(0, |all, sum| all | sum)
}

for_each_isa! {
    fn multiply_add / multiply_add_lanes(sums: &mut [[f32; LANES]; SUMS], factor: f32)
}

#[inline(always)]
fn multiply_add_lanes<A: Arithmetic>(sums: &mut [[f32; LANES]; SUMS], factor: f32) {
    // One array for each sum, so that each becomes a register.
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *sums;
    let step = |sums: [f32; LANES]| sums.map(|sum| A::mul_add(sum, factor, factor));
    for _ in 0..STEPS {
        (a, b, c, d) = (step(a), step(b), step(c), step(d));
        (e, f, g, h) = (step(e), step(f), step(g), step(h));
    }
    *sums = [a, b, c, d, e, f, g, h];
}

#[cfg(target_arch = "x86_64")]
fn dot_products(isa: Isa) {
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn dot_products() {
        use std::arch::x86_64::{_mm512_dpbf16_ps, _mm512_set1_epi32, _mm512_setzero_ps};
        // Small numbers, that stay finite.
        let factor = crate::avx512::pairs(_mm512_set1_epi32(black_box(0x3000_3000)));
        let mut sums = [_mm512_setzero_ps(); DOT_SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, factor, factor);
            }
        }
        let mut kept = [0.0; 16];
        for sum in sums {
            crate::avx512::store(&mut kept, sum);
            black_box(kept);
        }
    }
    assert_eq!(
        isa.level(),
        IsaLevel::Avx512Bf16,
        "the proof is of the level that is used"
    );
    // SAFETY: an `Isa` of this level exists only where the CPU has avx512f and avx512bf16.
    unsafe { dot_products() };
}

#[cfg(not(target_arch = "x86_64"))]
fn dot_products(_: Isa) {}
