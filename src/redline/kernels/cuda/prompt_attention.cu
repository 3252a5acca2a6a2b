// Attention of prompts, causal: softmax(scale Q K^T) V for each head, without a matrix of scores in memory (Dao et al., 2022; the overlap of both
// products with the softmax as in Shah et al., 2024). Of whole prompts keys and values lie in rows beside the queries; else (PAGED) in the pages of the
// cache, those of the new tokens too, and lengths are read from memory, as a captured step needs it.
//
// A block takes a tile of 128 rows: queries of one head, or (PAGED) of PACK heads that share their keys. Two warpgroups have 64 rows each, a warp copies
// tiles of 128 keys, another their values: a stage of keys is free half a turn before one of values. The keys nearest to the queries come first, so only
// the first tile, or the first two, hide any. While a tile's weights are computed, the next scores and the last sums are on their way. Blocks stay and
// take one item after another, the longest first. Where there are few items their keys are cut into parts (PAGED), which the last block to end joins.
//
// Defined by the compiler: SIZE (of a head: 64 or 128), COLS (128, the keys of a tile), STAGES (tiles of keys on their way, and of values), PAGED, and for
// pages PACK and PAGE (tokens of a page: a power of two, at least 8).

#define TILE 128
#define CONSUMERS 256
#define PIECES (SIZE / 64)  // of 64 numbers of a head: rows of 128 bytes
#define PIECE_BYTES (TILE * 128)
#define TILE_BYTES (PIECES * PIECE_BYTES)

#if PAGED

#define BOX (PAGE < TILE ? PAGE : TILE)  // keys of one copy
#define TOKENS (TILE / PACK)             // of a tile of queries
#define LEAST_TILES 2                    // of a part

struct Arguments {
    u16* output;             // [tokens, heads, SIZE]
    const int* query_start;  // [sequences + 1], the first token of each, of which `base` are before the output's
    const int* context;      // [sequences], keys that the last token sees
    const int* page_table;   // [sequences, table_stride]
    float* sums;             // scratch: [items, parts, CONSUMERS * (SIZE / 2 + 4)]
    int* arrivals;           // scratch: [items], zero between launches
    int sequences, base, blocks, table_stride;  // `blocks` of TOKENS tokens are enough for all sequences
    int heads, group;        // query heads; of one key-value head
    int parts;               // that the keys of an item are cut into, at the most
    float scale_log2;        // of scores, by the logarithm of 2
};

struct Item {
    int token, head, rows;            // the first query's, and rows of the tile that are queries
    int top, bottom;                  // the tiles of keys, from the nearest to the queries on
    int sequence, position, context;  // whose keys; of the first query; of the sequence
    int number, part, parts;          // of the item; of its keys; into which they are cut

    __device__ __forceinline__ int keys() const { return min(context, position + TOKENS); }  // that any of its queries sees
    __device__ __forceinline__ int last_tile() const { return (keys() - 1) / TILE; }
    __device__ __forceinline__ int copied() const { return min(context, (keys() + BOX - 1) / BOX * BOX); }  // keys that are there, in whole boxes
    // The place of the first query's own key in a tile, or behind it.
    __device__ __forceinline__ int gap(int tile) const { return position - tile * TILE; }
    __device__ __forceinline__ bool hides(int tile) const { return gap(tile) < TILE - 1; }
};

// The sequence whose block this is, where those of sequence s begin with (query_start[s] - base) / TOKENS + s.
__device__ __forceinline__ int find_sequence(const Arguments& a, int block) {
    int low = 0, high = a.sequences;
    while (a.sequences > 1 && low < high) {
        const int middle = (low + high) / 2;
        if ((a.query_start[middle] - a.base) / TOKENS + middle <= block)
            low = middle + 1;
        else
            high = middle;
    }
    return a.sequences > 1 ? low - 1 : 0;
}

// The `round`-th part of an item for this block, without rows where it is nobody's; the last blocks of a prompt, which see the most keys, first.
__device__ __forceinline__ bool find_item(const Arguments& a, u32 round, Item& item) {
    const u32 side = a.heads / PACK, index = round * gridDim.x + (round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
    if (index >= a.blocks * side * a.parts) return false;
    item.number = index / a.parts, item.part = index % a.parts;
    const int block = a.blocks - 1 - item.number / side;
    item.sequence = find_sequence(a, block);
    const int start = a.query_start[item.sequence] - a.base, count = a.query_start[item.sequence + 1] - a.base - start;
    const int first = (block - (a.sequences > 1 ? start / TOKENS + item.sequence : 0)) * TOKENS;
    item.context = a.context[item.sequence];
    item.token = start + first, item.head = item.number % side * PACK, item.rows = min(TILE, (count - first) * PACK);
    item.position = item.context - count + first;
    const int tiles = item.last_tile() + 1;
    item.parts = min(a.parts, (tiles + LEAST_TILES - 1) / LEAST_TILES);
    const int left = item.parts - item.part;
    if (left <= 0) item.rows = 0;  // there are fewer parts than blocks for them
    item.top = tiles * left / item.parts - 1, item.bottom = tiles * (left - 1) / item.parts;
    return true;
}

#else

#define PACK 1

struct Arguments {
    u16* output;  // [rows, heads, SIZE]
    int first_row, length, count;  // `count` prompts of `length` rows, end to end
    int heads, group;              // query heads; of one key-value head
    float scale_log2;              // of scores, by the logarithm of 2
};

struct Item {
    int token, head, rows;  // the first query's, and rows of the tile that are queries
    int top, bottom;        // the tiles of keys, from the nearest to the queries on
    int prompt;             // its first row

    __device__ __forceinline__ int gap(int tile) const { return 0; }
    __device__ __forceinline__ bool hides(int tile) const { return false; }  // but the first, which always does
};

// The `round`-th item of this block; longest first, in turns forth and back, so that all blocks have about as much to do.
__device__ __forceinline__ bool find_item(const Arguments& a, u32 round, Item& item) {
    const u32 blocks = (a.length + TILE - 1) / TILE, side = a.count * a.heads;
    const u32 index = round * gridDim.x + (round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
    if (index >= blocks * side) return false;
    item.top = blocks - 1 - index / side, item.bottom = 0;
    item.prompt = a.first_row + index % side / a.heads * a.length;
    item.head = index % side % a.heads;
    item.token = item.prompt + item.top * TILE, item.rows = a.length - item.top * TILE;
    return true;
}

#endif

struct Memory {
    u32 queries, keys, values;  // shared
    u32 query_full, query_empty, key_full, key_empty, value_full, value_empty;
};

#if PAGED

__device__ __forceinline__ void copy_queries(const TensorMap& map, u32 target, const Item& item, u32 full, u64 policy) {
    barrier_expect(full, TILE_BYTES);
#pragma unroll
    for (int piece = 0; piece < PIECES; ++piece) copy_box_3d(target + piece * PIECE_BYTES, map, 64 * piece, item.head, item.token, full, policy);
}

// The boxes of a tile that hold keys, by the whole warp, whose lanes have the pages of boxes `held`, `held` - 1, ...
__device__ __forceinline__ void copy_keys(const TensorMap& map, u32 target, u32 full, u32 empty, u32 parity, int column, int tile, int keys, int page, int held, u64 policy) {
    const bool leads = threadIdx.x % 32 == 0;
    if (leads) {
        barrier_wait(empty, parity);
        barrier_expect(full, min(TILE / BOX, (keys - tile * TILE + BOX - 1) / BOX) * BOX * SIZE * 2);
    }
#pragma unroll 1
    for (int box = 0; box < TILE / BOX; ++box) {
        const int key = tile * TILE + box * BOX, row = __shfl_sync(0xffffffff, page, held - key / BOX) * PAGE + key % PAGE;
        if (!leads || key >= keys) continue;
#pragma unroll
        for (int piece = 0; piece < PIECES; ++piece) copy_box(target + piece * PIECE_BYTES + box * BOX * 128, map, column + 64 * piece, row, full, policy);
    }
}

// A warp copies keys, with the queries before them, or VALUES.
template <bool VALUES>
__device__ __forceinline__ void produce(const Arguments& a, const TensorMap& queries, const TensorMap& map, const Memory& m) {
    const u64 once = policy_evict_first(), often = policy_evict_last();
    const u32 tiles = VALUES ? m.values : m.keys, full = VALUES ? m.value_full : m.key_full, empty = VALUES ? m.value_empty : m.key_empty;
    const int lane = threadIdx.x % 32;
    Item item;
    u32 turn = 0, number = 0;
    for (u32 round = 0; find_item(a, round, item); ++round) {
        if (item.rows <= 0) continue;
        if (!VALUES && lane == 0) {
            barrier_wait(m.query_empty, (number & 1) ^ 1);
            copy_queries(queries, m.queries, item, m.query_full, once);
        }
        ++number;
        const int* table = a.page_table + (u64)item.sequence * a.table_stride;
        const int column = item.head / a.group * SIZE, visible = item.keys();
        int held = 0, page = 0;
        for (int tile = item.top; tile >= item.bottom; --tile, ++turn) {
            const u32 stage = turn % STAGES, parity = (turn / STAGES & 1) ^ 1;
            if (tile == item.top || tile * (TILE / BOX) < held - 31) {
                held = (tile + 1) * (TILE / BOX) - 1;
                const int key = (held - lane) * BOX;
                page = key >= 0 && key < visible ? table[key / PAGE] : 0;
            }
            copy_keys(map, tiles + stage * TILE_BYTES, full + 8 * stage, empty + 8 * stage, parity, column, tile, visible, page, held, often);
        }
    }
}

#else

__device__ __forceinline__ void copy_tile(const TensorMap& map, u32 target, int head, int row, u32 full, u64 policy) {
    barrier_expect(full, TILE_BYTES);
#pragma unroll
    for (int piece = 0; piece < PIECES; ++piece) copy_box(target + piece * PIECE_BYTES, map, head * SIZE + 64 * piece, row, full, policy);
}

// A thread copies keys, with the queries before them, or VALUES.
template <bool VALUES>
__device__ __forceinline__ void produce(const Arguments& a, const TensorMap& queries, const TensorMap& map, const Memory& m) {
    if (threadIdx.x % 32) return;
    const u64 once = policy_evict_first(), often = policy_evict_last();
    const u32 tiles = VALUES ? m.values : m.keys, full = VALUES ? m.value_full : m.key_full, empty = VALUES ? m.value_empty : m.key_empty;
    Item item;
    u32 turn = 0;
    for (u32 round = 0; find_item(a, round, item); ++round) {
        if (!VALUES) {
            barrier_wait(m.query_empty, (round & 1) ^ 1);
            copy_tile(queries, m.queries, item.head, item.token, m.query_full, once);
        }
        for (int tile = item.top; tile >= item.bottom; --tile, ++turn) {
            const u32 stage = turn % STAGES;
            barrier_wait(empty + 8 * stage, (turn / STAGES & 1) ^ 1);
            copy_tile(map, tiles + stage * TILE_BYTES, item.head / a.group, item.prompt + tile * TILE, full + 8 * stage, often);
        }
    }
}

#endif

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

// A row sees keys of a tile up to its own: the first one's is at `gap`.
__device__ __forceinline__ void hide_later(float (&scores)[TILE / 2], int gap) {
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int last = (row + 8 * half) / PACK + gap;
#pragma unroll
        for (int j = 0; j < TILE / 8; ++j)
#pragma unroll
            for (int e = 0; e < 2; ++e)
                if (column + j * 8 + e > last) scores[4 * j + 2 * half + e] = __int_as_float(0xff800000);
    }
}

// Values that were not copied, or lie behind the last key of the cache, are nobody's; and 0 times what may be no number is not 0.
__device__ __forceinline__ void clear_values(u32 values, int live) {
    for (int i = threadIdx.x; i < (TILE - live) * PIECES * 8; i += CONSUMERS) {
        const u32 row = live + i / (PIECES * 8), piece = i / 8 % PIECES;
        asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(values + piece * PIECE_BYTES + row * 128 + i % 8 * 16), "r"(0) : "memory");
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    sync_threads(1, CONSUMERS);
}

// The warpgroups ask for products in turns, so that the weights of one are computed while the other's products run (Shah et al., 2024). The first
// one's turn is given by the second one at the beginning.
__device__ __forceinline__ void take_turn() { sync_threads(2 + threadIdx.x / 128, CONSUMERS); }
__device__ __forceinline__ void give_turn() { arrive_threads(3 - threadIdx.x / 128, CONSUMERS); }

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
    const int first = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        total[half] += __shfl_xor_sync(0xffffffff, total[half], 1);
        total[half] += __shfl_xor_sync(0xffffffff, total[half], 2);
        const float inverse = PAGED && total[half] == 0.f ? 0.f : __fdividef(1.f, total[half]);  // a token of nobody sees nothing
        const int row = first + 8 * half;
        u16* target = a.output + ((u64)(item.token + row / PACK) * a.heads + item.head + row % PACK) * SIZE + 2 * (lane % 4 - odd) + 8 * odd;
#pragma unroll
        for (int j = 0; j < SIZE / 8; j += 2) {
            const u32 low = pack_bf16(sums[4 * j + 2 * half] * inverse, sums[4 * j + 2 * half + 1] * inverse);
            const u32 high = pack_bf16(sums[4 * j + 4 + 2 * half] * inverse, sums[4 * j + 5 + 2 * half] * inverse);
            const u32 other = __shfl_xor_sync(0xffffffff, odd ? low : high, 1);
            if (row < item.rows) *(uint2*)(target + 8 * j) = odd ? make_uint2(other, high) : make_uint2(low, other);
        }
    }
}

// A row that has seen nothing yet: in a tile that hides all its keys from it, minus infinity less itself would be no number.
#define LEAST (PAGED ? -1e30f : __int_as_float(0xff800000))

#if PAGED

// The sums of an item's parts, in their order, by the block that comes last; whether this is it. Every thread meets its own numbers of other blocks.
__device__ __forceinline__ bool join(const Arguments& a, const Item& item, float (&sums)[SIZE / 2], float (&best)[2], float (&total)[2]) {
    __shared__ int arrived;
    const u64 stride = CONSUMERS * (SIZE / 8 + 1);  // of a part, in fours of numbers
    float4* const parts = (float4*)a.sums + item.number * a.parts * stride + threadIdx.x;
    float4* const own = parts + item.part * stride;
#pragma unroll
    for (int i = 0; i < SIZE / 8; ++i) own[i * CONSUMERS] = make_float4(sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]);
    own[SIZE / 8 * CONSUMERS] = make_float4(best[0], best[1], total[0], total[1]);
    __threadfence();
    sync_threads(1, CONSUMERS);
    if (threadIdx.x == 0) {
        arrived = atomicAdd(a.arrivals + item.number, 1);
        if (arrived == item.parts - 1) a.arrivals[item.number] = 0;
        __threadfence();
    }
    sync_threads(1, CONSUMERS);
    const bool is_last = arrived == item.parts - 1;
    sync_threads(1, CONSUMERS);  // `arrived` is written again with the next item
    if (!is_last) return false;
    best[0] = best[1] = LEAST, total[0] = total[1] = 0.f;
    for (int part = 0; part < item.parts; ++part) {
        const float4 rows = __ldcg(parts + part * stride + SIZE / 8 * CONSUMERS);
        best[0] = fmaxf(best[0], rows.x), best[1] = fmaxf(best[1], rows.y);
    }
#pragma unroll
    for (int i = 0; i < SIZE / 2; ++i) sums[i] = 0.f;
    for (int part = 0; part < item.parts; ++part) {
        const float4* const other = parts + part * stride;
        const float4 rows = __ldcg(other + SIZE / 8 * CONSUMERS);
        const float upper = power_of_2((rows.x - best[0]) * a.scale_log2), lower = power_of_2((rows.y - best[1]) * a.scale_log2);
        total[0] += upper * rows.z, total[1] += lower * rows.w;
#pragma unroll
        for (int i = 0; i < SIZE / 8; ++i) {
            const float4 four = __ldcg(other + i * CONSUMERS);
            sums[4 * i] += upper * four.x, sums[4 * i + 1] += upper * four.y, sums[4 * i + 2] += lower * four.z, sums[4 * i + 3] += lower * four.w;
        }
    }
    return true;
}

#endif

__device__ __forceinline__ void consume(const Arguments& a, const Memory& m) {
    const u32 queries = m.queries + threadIdx.x / 128 * 64 * 128;
    Item item;
    u32 turn = 0, number = 0;
    if (threadIdx.x >= 128) give_turn();
    for (u32 round = 0; find_item(a, round, item); ++round) {
        if (PAGED && item.rows <= 0) continue;
        float scores[TILE / 2], sums[SIZE / 2], best[2], total[2] = {}, shrink[2];
        u32 weights[TILE / 4];
        best[0] = best[1] = LEAST;
        barrier_wait(m.query_full, number++ & 1);
        barrier_wait(m.key_full + 8 * (turn % STAGES), turn / STAGES & 1);
        products_begin();
        ask_scores(scores, queries, m.keys + turn % STAGES * TILE_BYTES);
        products_wait();
        settle(scores);
        release(m.key_empty + 8 * (turn % STAGES));
        hide_later(scores, item.gap(item.top));
#if PAGED
        if (item.top == item.last_tile() && item.copied() < (item.top + 1) * TILE) {
            barrier_wait(m.value_full + 8 * (turn % STAGES), turn / STAGES & 1);
            clear_values(m.values + turn % STAGES * TILE_BYTES, item.copied() - item.top * TILE);
        }
#endif
        soften(scores, best, total, shrink, a.scale_log2);
        pack(scores, weights);
        for (int tile = item.top - 1; tile >= item.bottom; --tile, ++turn) {
            const u32 stage = turn % STAGES, after = (turn + 1) % STAGES;
            barrier_wait(m.key_full + 8 * after, (turn + 1) / STAGES & 1);
            settle(scores), settle(sums), settle(weights);
            take_turn();
            products_begin();
            ask_scores(scores, queries, m.keys + after * TILE_BYTES);
            barrier_wait(m.value_full + 8 * stage, turn / STAGES & 1);
            ask_output(sums, weights, m.values + stage * TILE_BYTES, tile != item.top - 1);
            give_turn();
            products_wait_but_last();
            settle(scores);
            release(m.key_empty + 8 * after);
            if (item.hides(tile)) hide_later(scores, item.gap(tile));
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
        ask_output(sums, weights, m.values + turn % STAGES * TILE_BYTES, item.top > item.bottom);
        products_wait();
        settle(sums), settle(weights);
        release(m.value_empty + 8 * (turn % STAGES));
        ++turn;
#if PAGED
        if (item.parts > 1 && !join(a, item, sums, best, total)) continue;
#endif
        finish(a, item, sums, total);
    }
    if (threadIdx.x < 128) take_turn();  // the last one, which nobody needs
}

// The block has 168 for each of its threads; what one warpgroup takes another must have given back, or it waits for ever.
#define CONSUMER_REGISTERS 232

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
#if PAGED
    let_next_kernel_start();
    wait_for_kernel_before();
#endif
    if (threadIdx.x < CONSUMERS) {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
        consume(a, m);
    } else {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(3 * 168 - 2 * CONSUMER_REGISTERS));
        const u32 warp = threadIdx.x / 32 - CONSUMERS / 32;
        if (warp == 0) produce<false>(a, queries, keys, m);
        if (warp == 1) produce<true>(a, queries, values, m);
    }
}
