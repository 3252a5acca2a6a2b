// The heads of many tokens between their projection and attention; formulas in prepare.py. A block takes a row, a warp some of its heads, which are all
// on their way before the first is looked at. Rows behind the last token are zeroes.
//
// Set by the compiler's command line: HEAD and NORMED (heads.cuh), HEADS and KV_HEADS.

#include "heads.cuh"

#define WARPS 8
#define ROUNDS ((HEADS + 2 * KV_HEADS + WARPS - 1) / WARPS)

struct Arguments {
    const u16* qkv;              // [tokens, (HEADS + 2 KV_HEADS) * HEAD]
    const long long* positions;  // [tokens]
    const long long* slots;      // [tokens]; a negative one is not written
    const float* q_norm;         // [HEAD] (NORMED)
    const float* k_norm;
    const float* cos_sin;        // [positions, HEAD]
    u16* q;                      // [rows, HEADS, HEAD]
    u16* k;                      // [rows, KV_HEADS, HEAD], where they are wanted beside the cache
    u16* v;
    u16* k_cache;                // [slots, KV_HEADS, HEAD]
    u16* v_cache;
    int tokens;
    float eps;
};

__device__ __forceinline__ void clear(u16* target, int count) {
    for (int i = threadIdx.x; i < count / 8; i += 32 * WARPS) *(uint4*)(target + 8 * i) = make_uint4(0, 0, 0, 0);
}

// To where they are wanted: twice, once, or not at all.
__device__ __forceinline__ void keep(const Head& head, u16* first, u16* second, int lane) {
#pragma unroll
    for (int i = 0; i < (HALF + 31) / 32; ++i) {
        const int c = lane + 32 * i;
        if (c >= HALF) continue;
        const u16 low = to_bf16(head.low[i]), high = to_bf16(head.high[i]);
        if (first) first[c] = low, first[c + HALF] = high;
        if (second) second[c] = low, second[c + HALF] = high;
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) prepare_heads(const __grid_constant__ Arguments a) {
    let_next_kernel_start();
    const int row = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u16* const q = a.q + (u64)row * HEADS * HEAD;
    u16* const k = a.k ? a.k + (u64)row * KV_HEADS * HEAD : nullptr;
    u16* const v = a.k ? a.v + (u64)row * KV_HEADS * HEAD : nullptr;
    if (row >= a.tokens) {
        wait_for_kernel_before();  // who may still read what was there
        clear(q, HEADS * HEAD);
        if (k) clear(k, KV_HEADS * HEAD), clear(v, KV_HEADS * HEAD);
        return;
    }
    const Head angles = load_numbers(a.cos_sin + a.positions[row] * HEAD, lane);
    const Norms norms = NORMED ? load_norms(a.q_norm, a.k_norm, lane) : Norms{};
    const long long slot = a.slots[row];
    wait_for_kernel_before();
    const u16* const source = a.qkv + (u64)row * (HEADS + 2 * KV_HEADS) * HEAD;
    Head heads[ROUNDS];
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
        const int i = warp + round * WARPS;
        if (i < HEADS + 2 * KV_HEADS) heads[round] = load_head(source + i * HEAD, lane);
    }
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
        const int i = warp + round * WARPS, place = (i - HEADS) % KV_HEADS * HEAD;
        if (i < HEADS) {
            prepare(heads[round], norms.q, angles, a.eps, q + i * HEAD, nullptr, lane);
        } else if (i < HEADS + 2 * KV_HEADS) {
            const bool is_key = i < HEADS + KV_HEADS;
            u16* const cache = slot < 0 ? nullptr : (is_key ? a.k_cache : a.v_cache) + slot * KV_HEADS * HEAD + place;
            u16* const kept = k ? (is_key ? k : v) + place : nullptr;
            if (!is_key)
                keep(heads[round], cache, kept, lane);
            else if (cache || kept)
                prepare(heads[round], norms.k, angles, a.eps, cache ? cache : kept, cache ? kept : nullptr, lane);
        }
    }
}
