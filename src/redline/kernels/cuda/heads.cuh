// What attention kernels do to the heads of a token, and the small matrix products they are made of. Set by the compiler's command
// line: HEAD (head size, a multiple of 16), GROUP (query heads of a key-value head, at most 16), PAGE (tokens of a page, a multiple
// of 16), NORMED (heads are normalised).

#define SLICES (HEAD / 16)
#define HALF (HEAD / 2)
#define LOWEST __int_as_float(0xff800000)  // minus infinity

__device__ __forceinline__ void load_matrices(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
__device__ __forceinline__ void load_transposed(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

__device__ __forceinline__ void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// One warp's numbers of a head: lane i has columns i, i + 32, ... of the lower half, and the same of the upper.
struct Head {
    float low[(HALF + 31) / 32], high[(HALF + 31) / 32];
};

__device__ __forceinline__ Head load_head(const u16* source, int lane) {
    Head head;
#pragma unroll
    for (int i = 0; i < (HALF + 31) / 32; ++i) {
        const int c = lane + 32 * i;
        head.low[i] = c < HALF ? from_bf16(__ldcg(source + c)) : 0.f;
        head.high[i] = c < HALF ? from_bf16(__ldcg(source + c + HALF)) : 0.f;
    }
    return head;
}

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(u16 bits) { return from_bf16(bits); }

// The same of float32 numbers, or of those in shared memory.
template <typename Number>
__device__ __forceinline__ Head load_numbers(const Number* source, int lane) {
    Head head;
#pragma unroll
    for (int i = 0; i < (HALF + 31) / 32; ++i) {
        const int c = lane + 32 * i;
        head.low[i] = c < HALF ? to_float(source[c]) : 0.f;
        head.high[i] = c < HALF ? to_float(source[c + HALF]) : 0.f;
    }
    return head;
}

// What all heads of a kernel are multiplied by once they are normalised (NORMED).
struct Norms {
    Head q, k;
};

__device__ __forceinline__ Norms load_norms(const float* q_norm, const float* k_norm, int lane) {
    return {load_numbers(q_norm, lane), load_numbers(k_norm, lane)};
}

// A head normalised, rounded, rotated by `angles` (cosines low, sines high), rounded, into `target` (and `written`).
__device__ __forceinline__ void prepare(const Head& head, const Head& norm, const Head& angles, float eps, u16* target, u16* written, int lane) {
    float square = 0.f;
#pragma unroll
    for (int i = 0; i < (HALF + 31) / 32; ++i) square += head.low[i] * head.low[i] + head.high[i] * head.high[i];
    const float root = NORMED ? rsqrtf(warp_sum(square) / HEAD + eps) : 1.f;
#pragma unroll
    for (int i = 0; i < (HALF + 31) / 32; ++i) {
        const int c = lane + 32 * i;
        if (c >= HALF) continue;
        float a = head.low[i], b = head.high[i];
        if (NORMED) {
            a = from_bf16(to_bf16(a * root * norm.low[i]));
            b = from_bf16(to_bf16(b * root * norm.high[i]));
        }
        const u16 low = to_bf16(a * angles.low[i] - b * angles.high[i]), high = to_bf16(b * angles.low[i] + a * angles.high[i]);
        target[c] = low, target[c + HALF] = high;
        if (written) written[c] = low, written[c + HALF] = high;
    }
}
