// Attention of one new token per sequence over the paged cache; formulas in decode_attention.py. Heads are prepared
// (norm, rotation) and the new key and value are written to the cache here, too.
//
// Four warps take (pair of sequence and chunk, key-value head) after (pair, head) of the list that begin.cu made. Each takes 16 keys in
// turn, with TILES tiles on their way into its own shared memory, and they never wait for each other before their sums are joined.
// A sequence's chunks are joined by whoever ends last, in their order.
//
// `cluster_attention` needs no list: a cluster of CLUSTER blocks takes a sequence's head, each block its share of the keys, and their
// sums are joined through the cluster's shared memory. It is the faster one where contexts are short.
//
// Set by the compiler's command line: what heads.cuh names, TILES and CLUSTER (1, 2, 4 or 8).

#include "heads.cuh"
#include "tile.cuh"

#define WARPS 4
#define WALKERS (32 * WARPS)       // threads
#define PADDED (HEAD + 8)           // elements of a query in shared memory: padded, so that eight queries meet eight banks
#define TILE_BYTES (LINES * PIECE)  // of keys or values
#define OCTETS EIGHTS_OF(GROUP)     // of queries
#define LONG 1200                   // keys of a context that take longer to read than what surrounds them

struct Plan {
    int pairs, chunk;  // pairs of sequence and chunk, and the chunk's length
};

struct Arguments {
    const u16* qkv;            // [rows, (heads + 2 kv heads) * HEAD]
    const float* q_norm;       // [HEAD] (NORMED)
    const float* k_norm;
    const float* cos_sin;      // [positions, HEAD]
    u16* k_cache;              // [pages, PAGE, kv heads, HEAD]
    u16* v_cache;
    const int* context;        // [rows]
    const int* page_table;     // [rows, table_stride]
    const Plan* plan;
    const int2* pairs;
    const int* whole_first;
    const int* remainder;
    float* sums;               // scratch: [pairs * kv heads, GROUP, HEAD]
    float* bests;              // scratch: [pairs * kv heads, 2, GROUP]
    int* arrivals;             // scratch: [rows * kv heads], zero between launches
    u16* output;               // [rows, heads * HEAD]
    int kv_heads, table_stride;
    float scale_log2, eps;
};

#define MOST_CHUNKS 64             // whose weights fit in shared memory at a time

struct Shared {
    __align__(128) u16 new_k[HEAD];
    __align__(128) u16 new_v[HEAD];
    __align__(16) u16 q[GROUP * PADDED];
    float best[WARPS][GROUP], total[WARPS][GROUP];
    float weights[MOST_CHUNKS * GROUP];
    float joined_best[GROUP], joined_total[GROUP];
    int is_last;
};

__device__ __forceinline__ void copy_async(u32 target, const u16* source, bool live) {
    const int bytes = live ? 16 : 0;  // the rest is zeroed
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING>
__device__ __forceinline__ void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// One item of the list: a chunk of a sequence, for one key-value head.
struct Item {
    int sequence, head, begin, context;

    __device__ __forceinline__ static Item at(const Arguments& a, int item) {
        const int2 pair = a.pairs[item / a.kv_heads];
        return {pair.x, item % a.kv_heads, pair.y, a.context[pair.x]};
    }
    __device__ __forceinline__ bool is_newest(int chunk) const { return begin < context && begin + chunk >= context; }
    // The new key, which is not in the cache yet, is not walked to.
    __device__ __forceinline__ int end(int chunk) const { return begin + chunk >= context ? context - 1 : begin + chunk; }
};

// A warp's share of one chunk: tiles `warp`, `warp` + WARPS, ... of keys [begin, end).
struct Walk {
    const Arguments& a;
    u32 tiles;  // this warp's shared memory
    int sequence, head, begin, end, warp, lane;
    int page;  // of this warp's tile 32 n + lane, loaded 32 at a time

    __device__ __forceinline__ int count() const { return end > begin ? ((end - begin + TILE - 1) / TILE - warp + WARPS - 1) / WARPS : 0; }
    __device__ __forceinline__ int first_key(int tile) const { return begin + TILE * (warp + WARPS * tile); }

    __device__ __forceinline__ void request(int tile) {
        if (tile < count()) {
            if (tile % 32 == 0) {
                const int key = first_key(tile + lane);
                page = key < end ? a.page_table[(u64)sequence * a.table_stride + key / PAGE] : 0;
            }
            const int key = first_key(tile);
            const u64 slot = (u64)__shfl_sync(0xffffffff, page, tile % 32) * PAGE + key % PAGE;
            const u32 stage = tiles + tile % TILES * (2 * TILE_BYTES);
            const u64 first = (slot * a.kv_heads + head) * HEAD;
#pragma unroll
            for (int i = 0; i < (TILE * HEAD / 8 + 31) / 32; ++i) {
                const int piece = lane + 32 * i, row = piece / (HEAD / 8), column = piece % (HEAD / 8) * 8;
                if ((TILE * HEAD / 8) % 32 && row >= TILE) continue;
                const u64 place = first + (u64)row * a.kv_heads * HEAD + column;
                const bool live = key + row < end;
                copy_async(place_of(stage, row, column / 8), a.k_cache + (live ? place : first), live);
                copy_async(place_of(stage + TILE_BYTES, row, column / 8), a.v_cache + (live ? place : first), live);
            }
        }
        copies_commit();
    }

    __device__ __forceinline__ void move(const Item& item, int chunk) {
        sequence = item.sequence, head = item.head, begin = item.begin, end = item.end(chunk);
#pragma unroll
        for (int i = 0; i < TILES; ++i) request(i);
    }

    __device__ __forceinline__ void take(ColumnSums<OCTETS>& sums, const u32 (&q)[OCTETS][SLICES][2]) {
        const int tile_count = count();
        for (int tile = 0; tile < tile_count; ++tile) {
            copies_wait<TILES - 1>();
            __syncwarp();
            const u32 stage = tiles + tile % TILES * (2 * TILE_BYTES);
            float scores[OCTETS][4] = {};
            u32 weights[OCTETS][2];
            score(scores, q, stage, lane);
            make_weights(sums, scores, weights, end - first_key(tile), a.scale_log2, lane);
            gather(sums, weights, stage + TILE_BYTES, lane);
            __syncwarp();
            request(tile + TILES);
        }
    }
};

// The warps' sums of a chunk, joined: elements e to e + 3 (of GROUP * HEAD) and their row's best score and total.
__device__ __forceinline__ float4 join_warps(const Shared& s, const float* values, int e, float& best, float& total) {
    const int row = e / HEAD;
    best = LOWEST, total = 0.f;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) best = fmaxf(best, s.best[w][row]);
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
        const float weight = exp2f(s.best[w][row] - best);  // a warp without keys: exp2(-inf) = 0
        const float4 part = *(const float4*)(values + w * GROUP * HEAD + e);
        total += weight * s.total[w][row];
        sum.x += weight * part.x, sum.y += weight * part.y, sum.z += weight * part.z, sum.w += weight * part.w;
    }
    return sum;
}

// All chunks of a sequence, joined by the block that came last: first their weights, then four elements a thread.
__device__ __forceinline__ void join_chunks(const Arguments& a, Shared& s, int sequence, int head, int context, int chunk, u16* output) {
    const int whole = context / chunk, count = whole + (context % chunk != 0);
    const int first = a.whole_first[sequence], rest = a.remainder[sequence];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int row = warp; row < GROUP; row += WARPS) {
        float best = LOWEST, total = 0.f;
        for (int i = lane; i < count; i += 32) {
            const float* other = a.bests + ((u64)(i < whole ? first + i : rest) * a.kv_heads + head) * 2 * GROUP + row;
            const float own = __ldcg(other), part = __ldcg(other + GROUP), higher = fmaxf(best, own);
            total = total * exp2f(best - higher) + part * exp2f(own - higher);
            best = higher;
        }
        float highest = best;
#pragma unroll
        for (int offset = 16; offset; offset >>= 1) highest = fmaxf(highest, __shfl_xor_sync(0xffffffff, highest, offset));
        total = warp_sum(best == LOWEST ? 0.f : total * exp2f(best - highest));
        if (lane == 0) s.joined_best[row] = highest, s.joined_total[row] = total;
    }
    float sums[(GROUP * HEAD / 4 + WALKERS - 1) / WALKERS][4] = {};
    for (int begin = 0; begin < count; begin += MOST_CHUNKS) {
        const int end = count - begin < MOST_CHUNKS ? count - begin : MOST_CHUNKS;
        sync_threads(1, WALKERS);
        for (int i = threadIdx.x; i < end * GROUP; i += WALKERS) {
            const int number = begin + i / GROUP, row = i % GROUP;
            const u64 item = (u64)(number < whole ? first + number : rest) * a.kv_heads + head;
            s.weights[i] = exp2f(__ldcg(a.bests + item * 2 * GROUP + row) - s.joined_best[row]) / s.joined_total[row];
        }
        sync_threads(1, WALKERS);
#pragma unroll
        for (int n = 0; n < (GROUP * HEAD / 4 + WALKERS - 1) / WALKERS; ++n) {
            const int e = 4 * (threadIdx.x + n * WALKERS);
            if (e >= GROUP * HEAD) continue;
#pragma unroll 8
            for (int i = 0; i < end; ++i) {
                const u64 item = (u64)(begin + i < whole ? first + begin + i : rest) * a.kv_heads + head;
                const float4 value = __ldcg((const float4*)(a.sums + item * GROUP * HEAD + e));
                const float weight = s.weights[i * GROUP + e / HEAD];
                sums[n][0] += weight * value.x, sums[n][1] += weight * value.y, sums[n][2] += weight * value.z, sums[n][3] += weight * value.w;
            }
        }
    }
#pragma unroll
    for (int n = 0; n < (GROUP * HEAD / 4 + WALKERS - 1) / WALKERS; ++n) {
        const int e = 4 * (threadIdx.x + n * WALKERS);
        if (e < GROUP * HEAD) *(uint2*)(output + e) = make_uint2(pack_bf16(sums[n][0], sums[n][1]), pack_bf16(sums[n][2], sums[n][3]));
    }
}

// The warps' sums into shared memory; `values`: WARPS * GROUP * HEAD floats of it.
__device__ __forceinline__ void lay_down(Shared& s, float* values, ColumnSums<OCTETS> sums) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    add_totals(sums);
#pragma unroll
    for (int n = 0; n < OCTETS; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            const int query = 8 * n + 2 * (lane % 4) + c;
            if (query >= GROUP) continue;
            if (lane < 4) s.best[warp][query] = sums.best[n][c], s.total[warp][query] = sums.total[n][c];
#pragma unroll
            for (int i = 0; i < 2 * SLICES; ++i) values[(warp * GROUP + query) * HEAD + 8 * i + lane / 4] = sums.values[n][i / 2][i % 2 * 2 + c];
        }
    sync_threads(1, WALKERS);
}

__device__ __forceinline__ void finish(const Arguments& a, Shared& s, float* values, const ColumnSums<OCTETS>& sums, int item, int sequence, int head, int context, int chunk) {
    lay_down(s, values, sums);
    u16* output = a.output + ((u64)sequence * a.kv_heads + head) * GROUP * HEAD;
    const bool alone = context <= chunk;
    for (int e = 4 * threadIdx.x; e < GROUP * HEAD; e += 4 * WALKERS) {
        float best, total;
        const float4 sum = join_warps(s, values, e, best, total);
        if (alone) {
            *(uint2*)(output + e) = make_uint2(pack_bf16(sum.x / total, sum.y / total), pack_bf16(sum.z / total, sum.w / total));
        } else {
            *(float4*)(a.sums + (u64)item * GROUP * HEAD + e) = sum;
            if (e % HEAD == 0) a.bests[(u64)item * 2 * GROUP + e / HEAD] = best, a.bests[(u64)item * 2 * GROUP + GROUP + e / HEAD] = total;
        }
    }
    sync_threads(1, WALKERS);
    if (alone) return;
    if (threadIdx.x == 0) {
        const int count = (context + chunk - 1) / chunk;
        int* counter = a.arrivals + sequence * a.kv_heads + head;
        __threadfence();
        s.is_last = atomicAdd(counter, 1) == count - 1;
        __threadfence();
        if (s.is_last) *counter = 0;
    }
    sync_threads(1, WALKERS);
    if (s.is_last) join_chunks(a, s, sequence, head, context, chunk, output);
}

#define ROUNDS ((GROUP + 2 + WARPS - 1) / WARPS)  // heads of a warp: of queries, the key's and the value's

__device__ __forceinline__ void copy_head(const Head& head, u16* target, u16* written, int lane) {
#pragma unroll
    for (int i = 0; i < (HALF + 31) / 32; ++i) {
        const int c = lane + 32 * i;
        if (c < HALF) target[c] = written[c] = to_bf16(head.low[i]), target[c + HALF] = written[c + HALF] = to_bf16(head.high[i]);
    }
}

// What preparing a token's heads needs beside them: nothing of it depends on the kernel before.
struct Ready {
    Norms norms;
    Head angles;
    u64 place;  // of the new key and value
};

__device__ __forceinline__ Ready get_ready(const Arguments& a, const Item& item) {
    const int lane = threadIdx.x % 32, position = item.context - 1;
    const u64 page = a.page_table[(u64)item.sequence * a.table_stride + position / PAGE], slot = page * PAGE + position % PAGE;
    return {load_norms(a.q_norm, a.k_norm, lane), load_numbers(a.cos_sin + (u64)position * HEAD, lane), (slot * a.kv_heads + item.head) * HEAD};
}

// Queries, and the new key and value where this block is the one that has them, into shared memory.
__device__ __forceinline__ void prepare_heads(const Arguments& a, Shared& s, const Ready& ready, const Item& item, bool is_newest) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u16* token = a.qkv + (u64)item.sequence * a.kv_heads * (GROUP + 2) * HEAD;
    Head heads[ROUNDS];  // all are on their way before the first is looked at
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
        const int i = warp + round * WARPS;  // a query's head, the key's or the value's
        if (i < GROUP + (is_newest ? 2 : 0)) heads[round] = load_head(token + (i < GROUP ? item.head * GROUP + i : a.kv_heads * i + item.head) * HEAD, lane);
    }
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
        const int i = warp + round * WARPS;
        if (i < GROUP) {
            prepare(heads[round], ready.norms.q, ready.angles, a.eps, s.q + i * PADDED, nullptr, lane);
        } else if (is_newest && i < GROUP + 2) {
            if (i == GROUP)
                prepare(heads[round], ready.norms.k, ready.angles, a.eps, s.new_k, a.k_cache + ready.place, lane);
            else
                copy_head(heads[round], s.new_v, a.v_cache + ready.place, lane);
        }
    }
}

// The sums of one item, whose first tiles have been requested.
__device__ __forceinline__ ColumnSums<OCTETS> walk_item(const Arguments& a, Shared& s, Walk& walk, const Ready& ready, const Item& item, int chunk) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const bool is_newest = item.is_newest(chunk);
    prepare_heads(a, s, ready, item, is_newest);
    sync_threads(1, WALKERS);
    u32 q[OCTETS][SLICES][2];
    load_queries(q, s.q, PADDED, GROUP, lane);
    ColumnSums<OCTETS> sums;
    if (is_newest && warp == WARPS - 1) take_newest(sums, q, s.new_k, s.new_v, a.scale_log2, lane);
    walk.take(sums, q);
    return sums;
}

__device__ __forceinline__ Walk walk_to(const Arguments& a, const Item& item, u32 tiles, int chunk) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Walk walk{a, tiles + warp * (TILES * 2 * TILE_BYTES), 0, 0, 0, 0, warp, lane, 0};
    walk.move(item, chunk);
    return walk;
}

extern "C" __global__ void __launch_bounds__(WALKERS) decode_attention(const __grid_constant__ Arguments a) {
    extern __shared__ __align__(128) u8 dynamic[];  // tiles, then the joined sums' values
    __shared__ Shared s;
    float* values = (float*)(dynamic + WARPS * TILES * 2 * TILE_BYTES);
    let_next_kernel_start();
    const Plan plan = *a.plan;
    const int items = plan.pairs * a.kv_heads;
    int number = blockIdx.x;
    if (number >= items) return wait_for_kernel_before();
    Item item = Item::at(a, number);
    Walk walk = walk_to(a, item, shared_address(dynamic), plan.chunk);
    Ready ready = get_ready(a, item);
    wait_for_kernel_before();
    while (true) {
        const ColumnSums<OCTETS> sums = walk_item(a, s, walk, ready, item, plan.chunk);
        const Item done = item;
        const int own = number;
        number += gridDim.x;
        if (number < items) {  // the next item's first tiles are on their way while this one's sums are joined
            item = Item::at(a, number);
            walk.move(item, plan.chunk);
            ready = get_ready(a, item);
        }
        finish(a, s, values, sums, own, done.sequence, done.head, done.context, plan.chunk);
        if (number >= items) return;
        sync_threads(1, WALKERS);
    }
}

#define OWNED (((GROUP * HEAD + CLUSTER - 1) / CLUSTER + 3) / 4 * 4)  // elements of the output that a block of a cluster finishes, at the most

struct Exchange {
    float sums[CLUSTER][OWNED];
    float2 rows[CLUSTER][GROUP];  // best score and total
};

// How many bytes the blocks of a cluster, itself too, send a block.
__device__ __forceinline__ u32 expected_bytes(u32 rank) {
    const int left = GROUP * HEAD - (int)rank * OWNED, owned = left < 0 ? 0 : left < OWNED ? left : OWNED;
    return CLUSTER * (4 * owned + sizeof(float2) * GROUP);
}

// Nothing is asynchronous where a block is alone: its launch knows of no cluster.
template <class Numbers>
__device__ __forceinline__ void give(Numbers& target, u32 received, u32 rank, Numbers numbers) {
    if (CLUSTER > 1)
        send_remote(shared_address(&target), received, rank, numbers);
    else
        target = numbers;
}

// This block's sums to those of the cluster that finish them, and its rows' best scores and totals to all.
__device__ __forceinline__ void send(const Shared& s, Exchange& exchange, u32 received, const float* values, u32 rank) {
    for (int e = 4 * threadIdx.x; e < GROUP * HEAD; e += 4 * WALKERS) {
        float2 row;
        const float4 sum = join_warps(s, values, e, row.x, row.y);
        give(*(float4*)&exchange.sums[rank][e % OWNED], received, e / OWNED, sum);
        if (e % HEAD == 0)
#pragma unroll
            for (int other = 0; other < CLUSTER; ++other) give(exchange.rows[rank][e / HEAD], received, other, row);
    }
}

__device__ __forceinline__ void write_owned(const Exchange& exchange, u16* output, u32 rank) {
    for (int i = threadIdx.x; i < OWNED; i += WALKERS) {
        const int e = rank * OWNED + i, row = e / HEAD;
        if (e >= GROUP * HEAD) return;
        float best = LOWEST, total = 0.f, sum = 0.f;
#pragma unroll
        for (int other = 0; other < CLUSTER; ++other) best = fmaxf(best, exchange.rows[other][row].x);
#pragma unroll
        for (int other = 0; other < CLUSTER; ++other) {
            const float2 part = exchange.rows[other][row];
            if (part.x == LOWEST) continue;  // a block without keys, whose sums are NaN
            const float weight = exp2f(part.x - best);
            total += weight * part.y;
            sum += weight * exchange.sums[other][i];
        }
        output[e] = to_bf16(sum / total);
    }
}

#if HEAD > 64 && HEAD <= 128
#define BOUNDS __maxnreg__(160)  // beside two blocks of the projection that follows (one_row.cu), which loads its weights meanwhile
#else
#define BOUNDS __launch_bounds__(WALKERS)
#endif

extern "C" __global__ void BOUNDS cluster_attention(const __grid_constant__ Arguments a) {
    extern __shared__ __align__(128) u8 dynamic[];  // tiles, then the joined sums' values
    __shared__ Shared s;
    __shared__ __align__(16) Exchange exchange;
    __shared__ u64 barrier;
    float* values = (float*)(dynamic + WARPS * TILES * 2 * TILE_BYTES);
    const u32 rank = CLUSTER > 1 ? cluster_rank() : 0, received = shared_address(&barrier);
    if (CLUSTER > 1 && threadIdx.x == 0) {
        barrier_init(received, 1);
        barriers_are_visible();
        barrier_expect(received, expected_bytes(rank));
    }
    const int pair = blockIdx.x / CLUSTER, sequence = pair / a.kv_heads;
    const int context = a.context[sequence], chunk = (context + CLUSTER * TILE - 1) / (CLUSTER * TILE) * TILE;
    if (context == 0) return wait_for_kernel_before();  // the whole cluster
    // Of a wide model the weights of the projection behind this would only come instead of those of the one before, for which this waits: 1 % of the step
    // of a 3B, 7B or 8B. A 1B and a 0.6B take 1 to 2 % longer so: their projections are short. Long contexts are read meanwhile anyway.
    const bool is_late = a.kv_heads * GROUP * HEAD >= 3072 && context <= LONG;
    if (!is_late) let_next_kernel_start();
    if (CLUSTER > 1) cluster_arrive();
    const Item item{sequence, pair % a.kv_heads, (int)rank * chunk, context};
    Walk walk = walk_to(a, item, shared_address(dynamic), chunk);
    const Ready ready = get_ready(a, item);
    wait_for_kernel_before();
    if (is_late) let_next_kernel_start();
    lay_down(s, values, walk_item(a, s, walk, ready, item, chunk));
    if (CLUSTER > 1) cluster_wait();  // nobody sends to a block that has not begun
    send(s, exchange, received, values, rank);
    if (CLUSTER > 1)
        barrier_wait_cluster(received, 0);
    else
        sync_threads(1, WALKERS);
    write_owned(exchange, a.output + ((u64)sequence * a.kv_heads + item.head) * GROUP * HEAD, rank);
}
