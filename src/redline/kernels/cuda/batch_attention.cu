// Attention of one new token per sequence over the paged cache, for many sequences; formulas in decode_attention.py. Heads are
// prepared (norm, rotation) and the new key and value are written to the cache here, too.
//
// The keys of all sequences, in tiles of 16, stand in one line, and every block takes the same number of them (`deal` says where it
// begins). One warp keeps UNITS copies of a tile's keys or values, of all HEADS heads at once, on their way into shared memory, so
// memory is read in pieces of a page and never waits for a sequence's end. Each other warp has one key-value head: it walks the
// tiles without waiting for its neighbours. What the next sequence needs, its heads and where its keys lie, is on its way while one is
// walked. A sequence that several blocks share is joined, head by head, in the order of its keys, by the block that begins it: that is
// its last sequence, and the first of the others, so they have mostly ended by then.
//
// Set by the compiler's command line: what heads.cuh names (HEAD 64 or 128), HEADS (key-value heads of a block), UNITS.

#include "heads.cuh"

#define THREADS (32 * HEADS + 32)
#define TILE 16                       // keys
#define LINES (HEAD / 64)             // pieces of 128 bytes of a head's key
#define PIECE (TILE * 128)            // bytes of such a piece in shared memory: 16 keys, swizzled
#define UNIT_BYTES (HEADS * LINES * PIECE)
#define DEALERS 256                   // threads of `deal`

// Where a block begins: a sequence, its keys, and which tiles are its.
struct Start {
    int sequence, context, first, next;
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
    const int* first_tile;     // [rows + 1]: tiles before each sequence's; then, of all
    const Start* starts;       // [blocks]
    float* sums;               // scratch: [groups of heads, blocks, HEADS, GROUP, HEAD]
    float* bests;              // scratch: [groups of heads, blocks, HEADS, 2, GROUP]
    int* arrivals;             // scratch: [rows * kv heads], zero between launches: parts that wait to be joined
    u16* output;               // [rows, heads * HEAD]
    int rows, kv_heads, table_stride, blocks;
    float scale_log2, eps;
};

struct DealArguments {
    const int* context;        // [rows]: keys of each row's sequence, the new one included; 0 for none
    int* first_tile;           // see Arguments
    Start* starts;
    int rows, blocks;
};

// A sequence has a tile at least, and its new key, which is not in the cache yet, comes after them.
__device__ __forceinline__ int tiles_of(int context) { return context > 1 ? (context - 1 + TILE - 1) / TILE : context; }

// Blocks that have work: one tile at the least.
__device__ __forceinline__ u32 busy(u32 blocks, u32 total) { return total < blocks ? total : blocks; }

__device__ __forceinline__ int first_of(u32 block, u32 blocks, u32 total) { return (u64)block * total / blocks; }

// The block that has tile `tile`.
__device__ __forceinline__ u32 owner_of(u32 tile, u32 blocks, u32 total) { return ((u64)(tile + 1) * blocks - 1) / total; }

extern "C" __global__ void __launch_bounds__(DEALERS) deal(const __grid_constant__ DealArguments a) {
    __shared__ int sums[DEALERS / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    let_next_kernel_start();
    wait_for_kernel_before();
    int total = 0;
    for (int begin = 0; begin < a.rows; begin += DEALERS) {
        const int row = begin + threadIdx.x, own = row < a.rows ? tiles_of(a.context[row]) : 0;
        int sum = own;
#pragma unroll
        for (int offset = 1; offset < 32; offset *= 2) {
            const int other = __shfl_up_sync(0xffffffff, sum, offset);
            if (lane >= offset) sum += other;
        }
        if (lane == 31) sums[warp] = sum;
        __syncthreads();
        int before = total + sum - own;
        for (int w = 0; w < DEALERS / 32; ++w) {
            if (w < warp) before += sums[w];
            total += sums[w];
        }
        if (row < a.rows) a.first_tile[row] = before;
        __syncthreads();
    }
    if (threadIdx.x == 0) a.first_tile[a.rows] = total;
    const u32 blocks = busy(a.blocks, total);
    for (int row = threadIdx.x; row < a.rows; row += DEALERS) {  // own entries only
        const int context = a.context[row], first = a.first_tile[row], next = first + tiles_of(context);
        if (first == next) continue;
        for (u32 block = ((u64)first * blocks + total - 1) / total; block < blocks && first_of(block, blocks, total) < next; ++block)
            a.starts[block] = {row, context, first, next};
    }
}

// Where a unit lies and which barriers it has. Units are keys, values, keys, values ... of one tile after the other.
struct Ring {
    u32 units, full, empty;
    __device__ __forceinline__ u32 at(u32 unit) const { return units + unit % UNITS * UNIT_BYTES; }
    __device__ __forceinline__ void wait_full(u32 unit) const { barrier_wait(full + 8 * (unit % UNITS), unit / UNITS & 1); }
    __device__ __forceinline__ void wait_empty(u32 unit) const {
        if (unit >= UNITS) barrier_wait(empty + 8 * (unit % UNITS), (unit / UNITS - 1) & 1);
    }
    __device__ __forceinline__ void release(u32 unit, int lane) const {
        __syncwarp();
        if (lane == 0) barrier_arrive(empty + 8 * (unit % UNITS));
    }
};

// The sequence behind `at` that has keys. There must be one.
__device__ __forceinline__ Start following(const Arguments& a, Start at) {
    do {
        ++at.sequence;
        at.first = at.next;
        at.next = a.first_tile[at.sequence + 1];
        at.context = a.context[at.sequence];
    } while (at.first == at.next);
    return at;
}

// The pages of up to 32 tiles of a sequence, one a lane.
__device__ __forceinline__ int load_pages(const Arguments& a, const Start& at, int tile, int last, int lane) {
    return tile + lane < last ? a.page_table[(u64)at.sequence * a.table_stride + (tile - at.first + lane) * TILE / PAGE] : 0;
}

// One warp: every tile of [tile, end), keys and values, in order.
__device__ __forceinline__ void produce(const Arguments& a, const TensorMap& keys, const TensorMap& values, const Ring& ring, Start at, int tile, int end, int group) {
    const int lane = threadIdx.x % 32;
    const u64 policy = policy_evict_first();
    u32 unit = 0;
    int pages = load_pages(a, at, tile, min(at.next, end), lane);
    while (tile < end) {
        const int last = min(at.next, end);
        const Start after = last < end ? following(a, at) : at;
        while (tile < last) {
            const int stop = min(tile + 32, last);
            int pages_after = 0;
            for (int i = 0; tile < stop; ++i, ++tile) {
                const int slot = __shfl_sync(0xffffffff, pages, i) * PAGE + (tile - at.first) * TILE % PAGE;
#pragma unroll
                for (int v = 0; v < 2; ++v, ++unit) {
                    ring.wait_empty(unit);
                    if (lane == 0) {
                        const u32 full = ring.full + 8 * (unit % UNITS);
                        barrier_expect(full, UNIT_BYTES);
                        copy_box_3d(ring.at(unit), v ? values : keys, 0, slot, group * HEADS * LINES, full, policy);
                    }
                    __syncwarp();
                }
                if (i == 0) pages_after = stop < last ? load_pages(a, at, stop, last, lane) : load_pages(a, after, stop, min(after.next, end), lane);
            }
            pages = pages_after;
        }
        at = after;
    }
}

struct Sums {
    float values[2 * SLICES][4];  // [columns of 8][two rows of two columns], unnormalised
    float best[2], total[2];      // of rows lane / 4 and lane / 4 + 8; totals of this lane's columns alone
};

// The scores' weights, after the best so far has been moved; `live` keys count.
__device__ __forceinline__ void weigh(Sums& s, float (&scores)[2][4], int live, float scale_log2, int lane) {
    float decay[2];
#pragma unroll
    for (int half = 0; half < (GROUP > 8 ? 2 : 1); ++half) {
        float best = s.best[half];
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                float& score = scores[n][2 * half + c];
                score = 8 * n + 2 * (lane % 4) + c < live ? score * scale_log2 : LOWEST;
                best = fmaxf(best, score);
            }
        best = fmaxf(best, __shfl_xor_sync(0xffffffff, best, 1));
        best = fmaxf(best, __shfl_xor_sync(0xffffffff, best, 2));
        decay[half] = exp2f(s.best[half] - best);  // a key counts at least, so `best` is finite
        s.best[half] = best;
        float total = 0.f;
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int c = 0; c < 2; ++c) total += scores[n][2 * half + c] = exp2f(scores[n][2 * half + c] - best);
        s.total[half] = s.total[half] * decay[half] + total;
    }
#pragma unroll
    for (int n = 0; n < 2 * SLICES; ++n) {
        s.values[n][0] *= decay[0], s.values[n][1] *= decay[0];
        if (GROUP > 8) s.values[n][2] *= decay[1], s.values[n][3] *= decay[1];
    }
}

// The place of 16 bytes in a piece of 16 keys: line `row`, the lines' 16-byte columns swapped among themselves by the row.
__device__ __forceinline__ u32 swizzled(u32 piece, int row, int column) { return piece + row * 128 + ((column ^ (row & 7)) << 4); }

__device__ __forceinline__ void score(float (&scores)[2][4], const u32 (&q)[SLICES][4], u32 keys, int lane) {
    const int row = lane % 8 + lane / 16 * 8, column = lane / 8 % 2;  // matrices: keys 0-7 (dims 0-7, 8-15), keys 8-15
#pragma unroll
    for (int step = 0; step < SLICES; ++step) {
        u32 k[4];
        load_matrices(k, swizzled(keys + step / 4 * PIECE, row, step % 4 * 2 + column));
        multiply(scores[0], q[step], k[0], k[1]);
        multiply(scores[1], q[step], k[2], k[3]);
    }
}

// Of two neighbouring keys' numbers, those of keys that count: a page may hold anything behind its last key.
__device__ __forceinline__ u32 counted(u32 pair, int key, int live) { return key + 1 < live ? pair : key < live ? pair & 0xffff : 0; }

__device__ __forceinline__ void gather(Sums& s, const u32 (&weights)[4], u32 values, int live, int lane) {
    const int row = lane % 16, column = lane / 16;  // matrices: keys 0-7, 8-15 (dims 0-7), the same (dims 8-15)
#pragma unroll
    for (int step = 0; step < SLICES; ++step) {
        u32 v[4];
        load_transposed(v, swizzled(values + step / 4 * PIECE, row, step % 4 * 2 + column));
        if (live < TILE)
#pragma unroll
            for (int n = 0; n < 4; ++n) v[n] = counted(v[n], 2 * (lane % 4) + n % 2 * 8, live);
        multiply(s.values[2 * step], weights, v[0], v[1]);
        multiply(s.values[2 * step + 1], weights, v[2], v[3]);
    }
}

__device__ __forceinline__ void take_tile(Sums& s, const u32 (&q)[SLICES][4], const Ring& ring, u32 unit, u32 head, int live, float scale_log2, int lane) {
    float scores[2][4] = {};
    ring.wait_full(unit);
    score(scores, q, ring.at(unit) + head * LINES * PIECE, lane);
    ring.release(unit, lane);
    u32 weights[4] = {};
    if (live > 0) {
        weigh(s, scores, live, scale_log2, lane);
        weights[0] = pack_bf16(scores[0][0], scores[0][1]), weights[2] = pack_bf16(scores[1][0], scores[1][1]);
        if (GROUP > 8) weights[1] = pack_bf16(scores[0][2], scores[0][3]), weights[3] = pack_bf16(scores[1][2], scores[1][3]);
    }
    ring.wait_full(unit + 1);
    if (live > 0) gather(s, weights, ring.at(unit + 1) + head * LINES * PIECE, live, lane);
    ring.release(unit + 1, lane);
}

// A warp's own shared memory: heads as they come, and prepared.
struct Heads {
    float angles[HEAD];
    u16 raw[(GROUP + 2) * HEAD];  // queries, key, value
    u16 q[GROUP * HEAD], k[HEAD];
    __device__ __forceinline__ const u16* v() const { return raw + (GROUP + 1) * HEAD; }
};

__device__ __forceinline__ void copy_16(void* target, const void* source) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(target)), "l"(source) : "memory");
}

// Ask for the angles of a sequence's newest token, which do not depend on the kernel before.
__device__ __forceinline__ void request_angles(const Arguments& a, Heads& heads, const Start& at, int lane) {
    for (int i = 4 * lane; i < HEAD; i += 128) copy_16(heads.angles + i, a.cos_sin + (u64)(at.context - 1) * HEAD + i);
}

// Ask for the heads of a sequence's newest token: the group's queries, the key, the value.
__device__ __forceinline__ void request_heads(const Arguments& a, Heads& heads, const Start& at, int head, int lane) {
    const u16* token = a.qkv + (u64)at.sequence * a.kv_heads * (GROUP + 2) * HEAD;
    for (int i = 8 * lane; i < (GROUP + 2) * HEAD; i += 256) {
        const int part = i < GROUP * HEAD ? head * GROUP * HEAD + i : (a.kv_heads * (GROUP + (i - GROUP * HEAD) / HEAD) + head) * HEAD + i % HEAD;
        copy_16(heads.raw + i, token + part);
    }
}

// The queries as the left operand; rows past the group's are zero.
__device__ __forceinline__ void load_queries(u32 (&q)[SLICES][4], const Heads& heads, int lane) {
#pragma unroll
    for (int step = 0; step < SLICES; ++step)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int row = lane / 4 + i % 2 * 8, column = 16 * step + 2 * (lane % 4) + i / 2 * 8;
            q[step][i] = row < GROUP ? *(const u32*)(heads.q + row * HEAD + column) : 0;
        }
}

// The new key, by plain arithmetic: every lane has two rows' sums, four lanes of a row share its columns.
__device__ __forceinline__ void take_newest(Sums& s, const Heads& heads, float scale_log2, int lane) {
#pragma unroll
    for (int half = 0; half < (GROUP > 8 ? 2 : 1); ++half) {
        const int row = lane / 4 + 8 * half;
        if (row >= GROUP) continue;
        float score = 0.f;
        for (int c = lane % 4; c < HEAD; c += 4) score += from_bf16(heads.q[row * HEAD + c]) * from_bf16(heads.k[c]);
        const u32 mates = 0xfu << (lane / 4 * 4);
        score += __shfl_xor_sync(mates, score, 1);
        score += __shfl_xor_sync(mates, score, 2);
        s.best[half] = score * scale_log2;
        s.total[half] = lane % 4 == 0 ? 1.f : 0.f;
#pragma unroll
        for (int n = 0; n < 2 * SLICES; ++n)
#pragma unroll
            for (int c = 0; c < 2; ++c) s.values[n][2 * half + c] = from_bf16(heads.v()[8 * n + 2 * (lane % 4) + c]);
    }
}

// What was asked for, prepared. `slot` is where the newest key goes, if this block has it; -1 if not.
__device__ __forceinline__ void prepare_heads(const Arguments& a, Heads& heads, const Norms& norms, int slot, int head, int lane) {
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncwarp();
    const Head angles = load_numbers(heads.angles, lane);
    Head queries[GROUP];
#pragma unroll
    for (int i = 0; i < GROUP; ++i) queries[i] = load_numbers(heads.raw + i * HEAD, lane);  // before anything is written
#pragma unroll
    for (int i = 0; i < GROUP; ++i) prepare(queries[i], norms.q, angles, a.eps, heads.q + i * HEAD, nullptr, lane);
    if (slot >= 0) {
        const u64 place = ((u64)slot * a.kv_heads + head) * HEAD;
        prepare(load_numbers(heads.raw + GROUP * HEAD, lane), norms.k, angles, a.eps, heads.k, a.k_cache + place, lane);
        for (int c = lane; c < HEAD; c += 32) a.v_cache[place + c] = heads.v()[c];
    }
    __syncwarp();
}

// Where the newest key of a sequence goes.
__device__ __forceinline__ int newest_slot(const Arguments& a, const Start& at) {
    const int page = a.page_table[(u64)at.sequence * a.table_stride + (at.context - 1) / PAGE];
    return page * PAGE + (at.context - 1) % PAGE;
}

// Writes a sequence's heads out of sums whose totals are whole.
__device__ __forceinline__ void write(const Arguments& a, const Sums& s, int sequence, int head, int lane) {
#pragma unroll
    for (int half = 0; half < (GROUP > 8 ? 2 : 1); ++half) {
        const int row = lane / 4 + 8 * half;
        if (row >= GROUP) continue;
        u16* output = a.output + (((u64)sequence * a.kv_heads + head) * GROUP + row) * HEAD + 2 * (lane % 4);
        const float share = 1.f / s.total[half];
#pragma unroll
        for (int n = 0; n < 2 * SLICES; ++n) *(u32*)(output + 8 * n) = pack_bf16(s.values[n][2 * half] * share, s.values[n][2 * half + 1] * share);
    }
}

// A block that goes on with a sequence leaves its sums, a part for each of its heads, to the block that begins it.
__device__ __forceinline__ u64 part_of(const Arguments& a, u32 block, int head) { return ((u64)(head / HEADS) * a.blocks + block) * HEADS + head % HEADS; }

__device__ __forceinline__ void keep(const Arguments& a, const Sums& s, u64 part, int lane) {
#pragma unroll
    for (int half = 0; half < (GROUP > 8 ? 2 : 1); ++half) {
        const int row = lane / 4 + 8 * half;
        if (row >= GROUP) continue;
        float* sums = a.sums + (part * GROUP + row) * HEAD + 2 * (lane % 4);
#pragma unroll
        for (int n = 0; n < 2 * SLICES; ++n) *(float2*)(sums + 8 * n) = make_float2(s.values[n][2 * half], s.values[n][2 * half + 1]);
        if (lane % 4 == 0) a.bests[part * 2 * GROUP + row] = s.best[half], a.bests[(part * 2 + 1) * GROUP + row] = s.total[half];
    }
}

// Adds what `keep` left of later keys.
__device__ __forceinline__ void take_part(const Arguments& a, Sums& s, u64 part, int lane) {
#pragma unroll
    for (int half = 0; half < (GROUP > 8 ? 2 : 1); ++half) {
        const int row = lane / 4 + 8 * half;
        if (row >= GROUP) continue;
        const float* sums = a.sums + (part * GROUP + row) * HEAD + 2 * (lane % 4);
        float2 values[2 * SLICES];
#pragma unroll
        for (int n = 0; n < 2 * SLICES; ++n) values[n] = __ldcg((const float2*)(sums + 8 * n));
        const float best = __ldcg(a.bests + part * 2 * GROUP + row), total = __ldcg(a.bests + (part * 2 + 1) * GROUP + row);
        const float higher = fmaxf(s.best[half], best), old = exp2f(s.best[half] - higher), own = exp2f(best - higher);
        s.best[half] = higher;
        s.total[half] = s.total[half] * old + total * own;
#pragma unroll
        for (int n = 0; n < 2 * SLICES; ++n) {
            s.values[n][2 * half] = s.values[n][2 * half] * old + values[n].x * own;
            s.values[n][2 * half + 1] = s.values[n][2 * half + 1] * old + values[n].y * own;
        }
    }
}

// Behind everything that this warp has written before.
__device__ __forceinline__ void count_part(int* counter) { asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(counter) : "memory"); }

__device__ __forceinline__ int counted_parts(const int* counter) {
    int count;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(count) : "l"(counter) : "memory");
    return count;
}

// What a warp has of a sequence becomes its output, or a part of it. Whoever waits for parts waits for blocks behind its own, and a part
// is the first thing that a block does: nobody waits for ever.
__device__ __forceinline__ void finish(const Arguments& a, Sums& s, const Start& at, int head, u32 blocks, u32 total, u32 block, int lane) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        s.total[half] += __shfl_xor_sync(0xffffffff, s.total[half], 1);
        s.total[half] += __shfl_xor_sync(0xffffffff, s.total[half], 2);
    }
    const u32 first_block = owner_of(at.first, blocks, total), last_block = owner_of(at.next - 1, blocks, total);
    int* counter = a.arrivals + at.sequence * a.kv_heads + head;
    if (block != first_block) {
        keep(a, s, part_of(a, block, head), lane);
        __syncwarp();
        if (lane == 0) count_part(counter);
        return;
    }
    if (first_block != last_block) {
        if (lane == 0) {
            while (counted_parts(counter) != (int)(last_block - first_block)) {
            }
            *counter = 0;
        }
        __syncwarp();
        for (u32 other = first_block + 1; other <= last_block; ++other) take_part(a, s, part_of(a, other, head), lane);
    }
    write(a, s, at.sequence, head, lane);
}

__device__ __forceinline__ void consume(const Arguments& a, Heads& heads, const Ring& ring, Start at, int tile, int end, u32 blocks, u32 total, u32 block, int head) {
    const int lane = threadIdx.x % 32;
    const Norms norms = load_norms(a.q_norm, a.k_norm, lane);
    request_angles(a, heads, at, lane);
    int slot = at.next <= end ? newest_slot(a, at) : -1;
    wait_for_kernel_before();
    request_heads(a, heads, at, head, lane);
    for (u32 unit = 0; tile < end;) {
        prepare_heads(a, heads, norms, slot, head, lane);
        u32 q[SLICES][4];
        load_queries(q, heads, lane);
        Sums s = {};
        s.best[0] = s.best[1] = LOWEST;
        if (slot >= 0) take_newest(s, heads, a.scale_log2, lane);
        const int first = tile, last = min(at.next, end);
        const Start after = last < end ? following(a, at) : at;
        for (; tile < last; ++tile, unit += 2) {
            take_tile(s, q, ring, unit, head % HEADS, at.context - 1 - (tile - at.first) * TILE, a.scale_log2, lane);
            if (tile == first && last < end) {  // every lane has read what is overwritten now
                request_angles(a, heads, after, lane);
                request_heads(a, heads, after, head, lane);
                slot = after.next <= end ? newest_slot(a, after) : -1;
            }
        }
        finish(a, s, at, head, blocks, total, block, lane);
        at = after;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    batch_attention(const __grid_constant__ TensorMap keys, const __grid_constant__ TensorMap values, const __grid_constant__ Arguments a) {
    extern __shared__ u8 dynamic[];
    __shared__ __align__(16) Heads heads[HEADS];
    __shared__ __align__(8) u64 barriers[2 * UNITS];
    const u32 units = (shared_address(dynamic) + 1023) / 1024 * 1024;
    const Ring ring{units, shared_address(barriers), shared_address(barriers + UNITS)};
    let_next_kernel_start();
    if (threadIdx.x == 0) {
        for (int i = 0; i < UNITS; ++i) barrier_init(ring.full + 8 * i, 1), barrier_init(ring.empty + 8 * i, HEADS);
        barriers_are_visible();
    }
    __syncthreads();
    const u32 total = a.first_tile[a.rows], blocks = busy(a.blocks, total), block = blockIdx.x % a.blocks;
    const int group = blockIdx.x / a.blocks, warp = threadIdx.x / 32;
    if (block >= blocks) return wait_for_kernel_before();
    const Start at = a.starts[block];
    const int tile = first_of(block, blocks, total), end = first_of(block + 1, blocks, total);
    if (warp == HEADS) {  // cached keys do not depend on the kernel before
        produce(a, keys, values, ring, at, tile, end, group);
        return wait_for_kernel_before();
    }
    consume(a, heads[warp], ring, at, tile, end, blocks, total, block, group * HEADS + warp);
}
