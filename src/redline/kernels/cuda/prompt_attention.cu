// Attention of whole prompts, causal, over keys and values that lie in rows beside the queries: softmax(scale Q K^T) V for each head, without a matrix of
// scores in memory (Dao et al., 2022; the overlap of both products with the softmax as in Shah et al., 2024).
//
// A block takes 128 queries of one head: two warpgroups have 64 each, a warp copies tiles of 128 keys and their values. The keys nearest to the queries
// come first, so only the first tile hides any. While a tile's weights are computed, the next scores and the last sums are on their way. Blocks stay and
// take one item after another, the longest first.
//
// Defined by the compiler: SIZE (of a head: 64 or 128), COLS (128, the keys of a tile).

#define TILE 128
#define CONSUMERS 256
#define PIECES (SIZE / 64)  // of 64 numbers of a head: rows of 128 bytes
#define PIECE_BYTES (TILE * 128)
#define TILE_BYTES (PIECES * PIECE_BYTES)
#define STAGES 2

struct Arguments {
    u16* output;  // [rows, heads, SIZE]
    int first_row, length, count;  // `count` prompts of `length` rows, end to end
    int heads, group;              // query heads; of one key-value head
    float scale_log2;              // of scores, by the logarithm of 2
};

struct Item {
    int row, block, head;  // the prompt's first row, the place of the queries in it, the query head
};

// The `round`-th item of this block; longest first, in turns forth and back, so that all blocks have about as much to do.
__device__ __forceinline__ bool find_item(const Arguments& a, u32 round, Item& item) {
    const u32 blocks = (a.length + TILE - 1) / TILE, side = a.count * a.heads;
    const u32 index = round * gridDim.x + (round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
    if (index >= blocks * side) return false;
    item.block = blocks - 1 - index / side;
    item.row = a.first_row + index % side / a.heads * a.length;
    item.head = index % side % a.heads;
    return true;
}

struct Memory {
    u32 queries, keys, values;  // shared
    u32 query_full, query_empty, key_full, key_empty, value_full, value_empty;
};

__device__ __forceinline__ void copy_tile(const TensorMap& map, u32 target, int head, int row, u32 full, u64 policy) {
    barrier_expect(full, TILE_BYTES);
#pragma unroll
    for (int piece = 0; piece < PIECES; ++piece) copy_box(target + piece * PIECE_BYTES, map, head * SIZE + 64 * piece, row, full, policy);
}

__device__ __forceinline__ void produce(const Arguments& a, const TensorMap& queries, const TensorMap& keys, const TensorMap& values, const Memory& m) {
    const u64 once = policy_evict_first(), often = policy_evict_last();
    Item item;
    u32 turn = 0;
    for (u32 round = 0; find_item(a, round, item); ++round) {
        barrier_wait(m.query_empty, (round & 1) ^ 1);
        copy_tile(queries, m.queries, item.head, item.row + item.block * TILE, m.query_full, once);
        for (int block = item.block; block >= 0; --block, ++turn) {
            const u32 stage = turn % STAGES, parity = (turn / STAGES & 1) ^ 1;
            barrier_wait(m.key_empty + 8 * stage, parity);
            copy_tile(keys, m.keys + stage * TILE_BYTES, item.head / a.group, item.row + block * TILE, m.key_full + 8 * stage, often);
            barrier_wait(m.value_empty + 8 * stage, parity);
            copy_tile(values, m.values + stage * TILE_BYTES, item.head / a.group, item.row + block * TILE, m.value_full + 8 * stage, often);
        }
    }
}

// A matrix of 128-byte rows as `describe` has it, to be read across its rows: the next 64 columns lie PIECE_BYTES further.
__device__ __forceinline__ u64 describe_across(u32 address) {
    return (u64)((address & 0x3FFFF) >> 4) | ((u64)(PIECE_BYTES >> 4) << 16) | ((u64)(1024 >> 4) << 32) | (1ull << 62);
}

__device__ __forceinline__ float power_of_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// What a product in the background has written is not read before this, nor what it reads written.
template <int N>
__device__ __forceinline__ void settle(float (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(x[i])::"memory");
}
template <int N>
__device__ __forceinline__ void settle(u32 (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+r"(x[i])::"memory");
}

__device__ __forceinline__ void ask_scores(float (&sums)[TILE / 2], u32 queries, u32 keys) {
#pragma unroll
    for (int k = 0; k < SIZE / 16; ++k) {
        const u32 place = k / 4 * PIECE_BYTES + k % 4 * 32;
        multiply(sums, describe(queries + place), describe(keys + place), k > 0);
    }
    products_commit();
}

__device__ __forceinline__ void ask_output(float (&sums)[SIZE / 2], const u32 (&weights)[TILE / 4], u32 values, bool accumulate) {
#pragma unroll
    for (int k = 0; k < TILE / 16; ++k) weigh(sums, weights + 4 * k, describe_across(values + k * 2048), accumulate || k > 0);
    products_commit();
}

__device__ __forceinline__ void hide_later(float (&scores)[TILE / 2]) {
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int i = 0; i < TILE / 2; ++i)
        if (column + i / 4 * 8 + i % 2 > row + i / 2 % 2 * 8) scores[i] = __int_as_float(0xff800000);
}

// Scores become weights; `shrink` is what earlier sums must be multiplied by.
__device__ __forceinline__ void soften(float (&scores)[TILE / 2], float (&best)[2], float (&total)[2], float (&shrink)[2], float scale_log2) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float top = best[half];
#pragma unroll
        for (int j = 0; j < TILE / 8; ++j) top = fmaxf(top, fmaxf(scores[4 * j + 2 * half], scores[4 * j + 2 * half + 1]));
        top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 2));
        shrink[half] = power_of_2((best[half] - top) * scale_log2);
        best[half] = top;
        const float shift = top * scale_log2;
        float sum = 0.f;
#pragma unroll
        for (int j = 0; j < TILE / 8; ++j)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                float& score = scores[4 * j + 2 * half + e];
                score = power_of_2(score * scale_log2 - shift);
                sum += score;
            }
        total[half] = total[half] * shrink[half] + sum;
    }
}

// As the left operand of a product wants them. Not before the product that reads the ones before has ended.
__device__ __forceinline__ void pack(const float (&scores)[TILE / 2], u32 (&weights)[TILE / 4]) {
#pragma unroll
    for (int i = 0; i < TILE / 4; ++i) weights[i] = pack_bf16(scores[2 * i], scores[2 * i + 1]);
}

__device__ __forceinline__ void release(u32 barrier) {
    if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

// Pairs of threads exchange words, so that each stores eight bytes, and four of them 32 bytes of a row.
__device__ __forceinline__ void finish(const Arguments& a, const Item& item, const float (&sums)[SIZE / 2], float (&total)[2]) {
    const u32 lane = threadIdx.x % 32, odd = lane % 2;
    const int first = item.block * TILE + threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        total[half] += __shfl_xor_sync(0xffffffff, total[half], 1);
        total[half] += __shfl_xor_sync(0xffffffff, total[half], 2);
        const float inverse = __fdividef(1.f, total[half]);
        const int row = first + 8 * half;
        u16* target = a.output + ((u64)(item.row + row) * a.heads + item.head) * SIZE + 2 * (lane % 4 - odd) + 8 * odd;
#pragma unroll
        for (int j = 0; j < SIZE / 8; j += 2) {
            const u32 low = pack_bf16(sums[4 * j + 2 * half] * inverse, sums[4 * j + 2 * half + 1] * inverse);
            const u32 high = pack_bf16(sums[4 * j + 4 + 2 * half] * inverse, sums[4 * j + 5 + 2 * half] * inverse);
            const u32 other = __shfl_xor_sync(0xffffffff, odd ? low : high, 1);
            if (row < a.length) *(uint2*)(target + 8 * j) = odd ? make_uint2(other, high) : make_uint2(low, other);
        }
    }
}

__device__ __forceinline__ void consume(const Arguments& a, const Memory& m) {
    const u32 queries = m.queries + threadIdx.x / 128 * 64 * 128;
    Item item;
    u32 turn = 0;
    for (u32 round = 0; find_item(a, round, item); ++round) {
        float scores[TILE / 2], sums[SIZE / 2], best[2], total[2] = {}, shrink[2];
        u32 weights[TILE / 4];
        best[0] = best[1] = __int_as_float(0xff800000);
        barrier_wait(m.query_full, round & 1);
        barrier_wait(m.key_full + 8 * (turn % STAGES), turn / STAGES & 1);
        products_begin();
        ask_scores(scores, queries, m.keys + turn % STAGES * TILE_BYTES);
        products_wait();
        settle(scores);
        release(m.key_empty + 8 * (turn % STAGES));
        hide_later(scores);
        soften(scores, best, total, shrink, a.scale_log2);
        pack(scores, weights);
        for (int block = item.block - 1; block >= 0; --block, ++turn) {
            const u32 stage = turn % STAGES, parity = turn / STAGES & 1, after = (turn + 1) % STAGES;
            barrier_wait(m.key_full + 8 * after, (turn + 1) / STAGES & 1);
            settle(scores), settle(sums), settle(weights);
            products_begin();
            ask_scores(scores, queries, m.keys + after * TILE_BYTES);
            barrier_wait(m.value_full + 8 * stage, parity);
            ask_output(sums, weights, m.values + stage * TILE_BYTES, block != item.block - 1);
            products_wait_but_last();
            settle(scores);
            release(m.key_empty + 8 * after);
            soften(scores, best, total, shrink, a.scale_log2);
            products_wait();
            settle(sums), settle(weights);
            release(m.value_empty + 8 * stage);
#pragma unroll
            for (int i = 0; i < SIZE / 2; ++i) sums[i] *= shrink[i / 2 % 2];
            pack(scores, weights);
        }
        release(m.query_empty);
        barrier_wait(m.value_full + 8 * (turn % STAGES), turn / STAGES & 1);
        settle(sums), settle(weights);
        products_begin();
        ask_output(sums, weights, m.values + turn % STAGES * TILE_BYTES, item.block > 0);
        products_wait();
        settle(sums), settle(weights);
        release(m.value_empty + 8 * (turn % STAGES));
        ++turn;
        finish(a, item, sums, total);
    }
}

extern "C" __global__ void __launch_bounds__(CONSUMERS + 128, 1)
    prompt_attention(const __grid_constant__ TensorMap queries, const __grid_constant__ TensorMap keys, const __grid_constant__ TensorMap values,
                     const __grid_constant__ Arguments a) {
    extern __shared__ u8 shared[];
    __shared__ u64 barriers[2 + 4 * STAGES];
    Memory m;
    m.queries = (shared_address(shared) + 1023) / 1024 * 1024, m.keys = m.queries + TILE_BYTES, m.values = m.keys + STAGES * TILE_BYTES;
    m.query_full = shared_address(barriers), m.query_empty = m.query_full + 8;
    m.key_full = m.query_full + 16, m.key_empty = m.key_full + 8 * STAGES;
    m.value_full = m.key_empty + 8 * STAGES, m.value_empty = m.value_full + 8 * STAGES;
    if (threadIdx.x == CONSUMERS) {
        prefetch_map(queries), prefetch_map(keys), prefetch_map(values);
        barrier_init(m.query_full, 1), barrier_init(m.query_empty, CONSUMERS / 32);
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(m.key_full + 8 * i, 1), barrier_init(m.key_empty + 8 * i, CONSUMERS / 32);
            barrier_init(m.value_full + 8 * i, 1), barrier_init(m.value_empty + 8 * i, CONSUMERS / 32);
        }
        barriers_are_visible();
    }
    __syncthreads();
    if (threadIdx.x < CONSUMERS) {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        consume(a, m);
    } else {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == CONSUMERS) produce(a, queries, keys, values, m);
    }
}
