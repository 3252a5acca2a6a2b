// Attention of a few queries over tiles of 16 keys in shared memory, by one warp. Keys are the left operand of the scores' products and dimensions that of the
// outputs', so that queries are columns, of which an instruction has eight and not sixteen: half the instructions for the four to eight queries that share a
// head's keys. What heads.cuh names must be set.

#define TILE 16                      // keys; line.cuh says the same
#define LINES ((HEAD + 63) / 64)     // pieces of 64 dims of a key
#define PIECE (TILE * 128)           // bytes of such a piece of a tile
#define EIGHTS_OF(queries) (((queries) + 7) / 8)
#define AHEAD (EIGHTS == 1 ? 4 : 2)  // slices loaded before the first of them is multiplied
#define SLACK 8.f                    // a score may be so far above the best to which sums were last scaled: its weight is 256 and no less exact

// Where eight dims of a tile's key lie (`column`: eighths): 64 dims stand in a line of 128 bytes, whose 16-byte columns are swapped among themselves by the row
// (the 128-byte swizzle of tensor copies). Lines begin at multiples of 128.
__device__ __forceinline__ u32 place_of(u32 tile, int row, int column) { return tile + column / 8 * PIECE + row * 128 + ((column % 8 ^ (row & 7)) << 4); }

// The same for a lane's row of a slice, from that of the first slice, where a row's lines lie APART bytes apart.
template <int APART>
__device__ __forceinline__ u32 slice_of(u32 place, int slice) { return (place ^ (slice % 4 << 5)) + slice / 4 * APART; }

// Sums of up to eight queries for each of EIGHTS. A lane has queries 2 * (lane % 4) and the next of each eight.
template <int EIGHTS>
struct ColumnSums {
    float values[EIGHTS][SLICES][4];  // [..][dims of 16][dim lane / 4 of both queries, then dim lane / 4 + 8], unnormalised
    float best[EIGHTS][2];            // what weights are relative to
    float total[EIGHTS][2];           // of keys lane / 4 and lane / 4 + 8 of each tile alone

    __device__ __forceinline__ ColumnSums() : values{}, total{} {
#pragma unroll
        for (int n = 0; n < EIGHTS; ++n) best[n][0] = best[n][1] = LOWEST;
    }
};

// Queries, [rows, HEAD], as columns; those past the ones that there are are zero.
template <int EIGHTS>
__device__ __forceinline__ void load_queries(u32 (&q)[EIGHTS][SLICES][2], const u16* queries, int stride, int rows, int lane) {
#pragma unroll
    for (int n = 0; n < EIGHTS; ++n)
#pragma unroll
        for (int step = 0; step < SLICES; ++step)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int row = lane / 4 + 8 * n, column = 16 * step + 2 * (lane % 4) + 8 * i;
                q[n][step][i] = row < rows ? *(const u32*)(queries + row * stride + column) : 0;
            }
}

// Scores of keys lane / 4 (of both queries) and lane / 4 + 8. Of eight queries, every other slice has sums of its own, so that no product waits for the one before.
template <int APART, int EIGHTS>
__device__ __forceinline__ void score_rows(float (&scores)[EIGHTS][4], const u32 (&q)[EIGHTS][SLICES][2], u32 place) {
    float odd[4] = {};
#pragma unroll
    for (int first = 0; first < SLICES; first += AHEAD) {
        u32 k[AHEAD][4];  // keys 0-7 and 8-15 (dims 0-7), the same (dims 8-15)
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
            if (first + i < SLICES) load_matrices(k[i], slice_of<APART>(place, first + i));
#pragma unroll
        for (int i = 0; i < AHEAD && first + i < SLICES; ++i)
#pragma unroll
            for (int n = 0; n < EIGHTS; ++n) multiply(EIGHTS == 1 && i % 2 ? odd : scores[n], k[i], q[n][first + i][0], q[n][first + i][1]);
    }
#pragma unroll
    for (int i = 0; EIGHTS == 1 && i < 4; ++i) scores[0][i] += odd[i];
}

__device__ __forceinline__ float power_of_two(float exponent) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(exponent));
    return power;
}

__device__ __forceinline__ u32 transpose(u32 pair) {
    u32 other;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(other) : "r"(pair));
    return other;
}

// Scales sums to the best of these scores and of those before.
template <int EIGHTS>
__device__ __forceinline__ void scale_to_best(ColumnSums<EIGHTS>& s, const float (&scores)[EIGHTS][4], float scale_log2) {
#pragma unroll
    for (int n = 0; n < EIGHTS; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            float best = fmaxf(scores[n][c], scores[n][2 + c]) * scale_log2;
#pragma unroll
            for (int offset = 4; offset < 32; offset *= 2) best = fmaxf(best, __shfl_xor_sync(0xffffffff, best, offset));
            best = fmaxf(best, s.best[n][c]);
            const float decay = power_of_two(s.best[n][c] - best);
            s.best[n][c] = best;
            s.total[n][c] *= decay;
#pragma unroll
            for (int step = 0; step < SLICES; ++step) s.values[n][step][c] *= decay, s.values[n][step][2 + c] *= decay;
        }
}

// Scores become weights, packed as the right operand: keys 2 * (lane % 4) and the next, and eight further, of query lane / 4. `live` keys count, one at least.
template <int EIGHTS>
__device__ __forceinline__ void make_weights(ColumnSums<EIGHTS>& s, float (&scores)[EIGHTS][4], u32 (&weights)[EIGHTS][2], int live, float scale_log2, int lane) {
    if (live < TILE)
#pragma unroll
        for (int n = 0; n < EIGHTS; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if (lane / 4 + i / 2 * 8 >= live) scores[n][i] = LOWEST;
    bool is_above = false;
#pragma unroll
    for (int n = 0; n < EIGHTS; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) is_above |= fmaf(scores[n][i], scale_log2, -s.best[n][i % 2]) > SLACK;
    if (__any_sync(0xffffffff, is_above)) scale_to_best(s, scores, scale_log2);
#pragma unroll
    for (int n = 0; n < EIGHTS; ++n) {
        float weight[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) weight[i] = power_of_two(fmaf(scores[n][i], scale_log2, -s.best[n][i % 2]));
        s.total[n][0] += weight[0] + weight[2], s.total[n][1] += weight[1] + weight[3];
        weights[n][0] = transpose(pack_bf16(weight[0], weight[1])), weights[n][1] = transpose(pack_bf16(weight[2], weight[3]));
    }
}

// Clears a tile's values behind the `live`th key: a page may hold anything there, and nothing times a weight of zero need be zero.
__device__ __forceinline__ void clear_dead(u32 values, int live, int lane) {
    for (int i = lane; i < (TILE - live) * HEAD / 8; i += 32)
        asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(values + i / 8 / (TILE - live) * PIECE + (live + i / 8 % (TILE - live)) * 128 + i % 8 * 16), "r"(0) : "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // what is copied there next comes later
    __syncwarp();
}

template <int APART, int EIGHTS>
__device__ __forceinline__ void gather_rows(ColumnSums<EIGHTS>& s, const u32 (&weights)[EIGHTS][2], u32 place) {
#pragma unroll
    for (int first = 0; first < SLICES; first += AHEAD) {
        u32 v[AHEAD][4];  // dims 0-7 and 8-15 (keys 0-7), the same (keys 8-15)
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
            if (first + i < SLICES) load_transposed(v[i], slice_of<APART>(place, first + i));
#pragma unroll
        for (int i = 0; i < AHEAD && first + i < SLICES; ++i)
#pragma unroll
            for (int n = 0; n < EIGHTS; ++n) multiply(s.values[n][first + i], v[i], weights[n][0], weights[n][1]);
    }
}

template <int EIGHTS>
__device__ __forceinline__ void score(float (&scores)[EIGHTS][4], const u32 (&q)[EIGHTS][SLICES][2], u32 keys, int lane) {
    score_rows<PIECE>(scores, q, place_of(keys, lane % 16, lane / 16));
}

template <int EIGHTS>
__device__ __forceinline__ void gather(ColumnSums<EIGHTS>& s, const u32 (&weights)[EIGHTS][2], u32 values, int lane) {
    gather_rows<PIECE>(s, weights, place_of(values, lane % 8 + lane / 16 * 8, lane / 8 % 2));
}

// One key that is in no tile: as a tile of nothing else, of which one row counts. `key` and `value` begin at multiples of 128 bytes.
template <int EIGHTS>
__device__ __forceinline__ void take_newest(ColumnSums<EIGHTS>& s, const u32 (&q)[EIGHTS][SLICES][2], const u16* key, const u16* value, float scale_log2, int lane) {
    float scores[EIGHTS][4] = {};
    u32 weights[EIGHTS][2];
    score_rows<128>(scores, q, shared_address(key) + lane / 16 * 16);
    make_weights(s, scores, weights, 1, scale_log2, lane);
    gather_rows<128>(s, weights, shared_address(value) + lane / 8 % 2 * 16);
}

// Totals of all keys, in every lane.
template <int EIGHTS>
__device__ __forceinline__ void add_totals(ColumnSums<EIGHTS>& s) {
#pragma unroll
    for (int n = 0; n < EIGHTS; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c)
#pragma unroll
            for (int offset = 4; offset < 32; offset *= 2) s.total[n][c] += __shfl_xor_sync(0xffffffff, s.total[n][c], offset);
}

// Such sums as rows: lane i has query i / 4 of each eight, and two of eight dims.
struct RowSums {
    float values[2 * SLICES][4];  // [columns of 8][two rows of two columns], unnormalised
    float best[2], total[2];      // of rows lane / 4 and lane / 4 + 8
};

template <int EIGHTS>
__device__ __forceinline__ RowSums rows_of(const ColumnSums<EIGHTS>& w, int lane) {
    RowSums s = {};
#pragma unroll
    for (int n = 0; n < EIGHTS; ++n) {
        const int source = lane / 8;  // a lane with this one's query
        const float even = __shfl_sync(0xffffffff, w.best[n][0], source), odd = __shfl_sync(0xffffffff, w.best[n][1], source);
        const float even_total = __shfl_sync(0xffffffff, w.total[n][0], source), odd_total = __shfl_sync(0xffffffff, w.total[n][1], source);
        s.best[n] = lane / 4 % 2 ? odd : even, s.total[n] = lane / 4 % 2 ? odd_total : even_total;
#pragma unroll
        for (int i = 0; i < 2 * SLICES; ++i) {
            const u32 first = __float_as_uint(w.values[n][i / 2][i % 2 * 2]), second = __float_as_uint(w.values[n][i / 2][i % 2 * 2 + 1]);
            const u32 low = transpose(__byte_perm(first, second, 0x5410)), high = transpose(__byte_perm(first, second, 0x7632));
            s.values[i][2 * n] = __uint_as_float(__byte_perm(low, high, 0x5410));
            s.values[i][2 * n + 1] = __uint_as_float(__byte_perm(low, high, 0x7632));
        }
    }
    return s;
}
