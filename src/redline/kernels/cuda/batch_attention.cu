// Attention of one new token per sequence over the paged cache, for many sequences; formulas in decode_attention.py. Heads are
// prepared (norm, rotation) and the new key and value are written to the cache here, too.
//
// The keys of all sequences, in tiles of 16, stand in one line, and every block takes the same number of them (deal.cu says where it
// begins). One warp keeps UNITS copies of a tile's keys or values, of all HEADS heads at once, on their way into shared memory, so
// memory is read in pieces of a page and never waits for a sequence's end. Each other warp has one key-value head: it walks the
// tiles without waiting for its neighbours. What the next sequence needs, its heads and where its keys lie, is on its way while one is
// walked. A sequence that a few blocks share is joined, head by head, in the order of its keys, by the block that begins it: that is
// its last sequence, and the first of the others, so they have mostly ended by then. One that many share is joined by all of them.
//
// Pages that several sequences begin with are read once for MEMBERS of them, a bundle, as many as have room in two
// matrix instructions of eight queries. Bundles stand in the line before all sequences. What they leave is joined as any other part.
//
// Set by the compiler's command line: what heads.cuh names (HEAD 64 or 128), HEADS (key-value heads of a block), UNITS, MEMBERS
// (sequences of a bundle at the most, 1 where there are no bundles).

#include "heads.cuh"
#include "line.cuh"
#include "parts.cuh"
#include "tile.cuh"

#define THREADS (32 * HEADS + 32)
#define UNIT_BYTES (HEADS * LINES * PIECE)
#define MANY_PARTS 5  // so many parts of a sequence are not added one after the other, of which each is a trip to memory

struct Arguments {
    const u16* qkv;            // [rows, (heads + 2 kv heads) * HEAD]
    const float* q_norm;       // [HEAD] (NORMED)
    const float* k_norm;
    const float* cos_sin;      // [positions, HEAD]
    u16* k_cache;              // [pages, PAGE, kv heads, HEAD]
    u16* v_cache;
    const int* context;        // [rows]
    const int* page_table;     // [rows, table_stride]
    const Entry* entries;      // [room + rows]: bundles, the last of them at room - 1, then sequences
    const Member* members;     // [room, ROWS]
    const int* first_tile;     // [room + rows + 1]: tiles before each entry's; then, of all
    const Start* starts;       // [blocks]
    float* sums;               // scratch: [groups of heads, blocks, HEADS, GROUP, HEAD]
    float* bests;              // scratch: [groups of heads, blocks, HEADS, 2, GROUP]
    float* bundle_sums;        // scratch: [groups of heads, room + blocks, HEADS, ROWS, HEAD]
    float* bundle_bests;       // scratch: [groups of heads, room + blocks, HEADS, 2, ROWS]
    float* first_sums;         // scratch: [rows, kv heads, GROUP, HEAD]
    float* first_bests;        // scratch: [rows, kv heads, 2, GROUP]
    int* arrivals;             // scratch: [rows * kv heads], zero between launches: parts that wait to be joined
    Piece* pieces;             // scratch: [groups of heads, blocks, 2, HEADS, GROUP, PIECES], EMPTY between launches: parts that many blocks join
    u16* output;               // [rows, heads * HEAD]
    int rows, room, kv_heads, table_stride, blocks;
    float scale_log2, eps;
};

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

// The entry behind `at` that has tiles. There must be one.
__device__ __forceinline__ Start following(const Arguments& a, Start at) {
    do {
        ++at.place;
        at.first = at.next;
        at.next = a.first_tile[at.place + 1];
        at.own = a.entries[at.place];
    } while (at.first == at.next);
    return at;
}

__device__ __forceinline__ bool is_bundle(const Arguments& a, const Start& at) { return MEMBERS > 1 && at.place < a.room; }

// The first key of a tile, in its sequence.
__device__ __forceinline__ int key_of(const Start& at, int tile) { return (tile - at.first + (MEMBERS > 1 ? at.own.skipped : 0)) * TILE; }

// The pages of up to 32 tiles of a sequence, one a lane.
__device__ __forceinline__ int load_pages(const Arguments& a, const Start& at, int tile, int last, int lane) {
    return tile + lane < last ? a.page_table[(u64)at.own.sequence * a.table_stride + key_of(at, tile + lane) / PAGE] : 0;
}

// One warp: every tile of [tile, end), keys and values, in order. The next kernel's weights are for the memory when the last keys are on their way, while
// parts are joined: asked for before, they would only have come instead of keys.
__device__ __forceinline__ void produce(const Arguments& a, const TensorMap& keys, const TensorMap& values, const Ring& ring, Start at, int tile, int end, int group) {
    const int lane = threadIdx.x % 32;
    const u64 once = policy_evict_first(), often = policy_evict_last();
    u32 unit = 0;
    int pages = load_pages(a, at, tile, min(at.next, end), lane);
    while (tile < end) {
        const int last = min(at.next, end);
        const Start after = last < end ? following(a, at) : at;
        const u64 policy = is_bundle(a, at) ? often : once;
        while (tile < last) {
            const int stop = min(tile + 32, last);
            int pages_after = 0;
            for (int i = 0; tile < stop; ++i, ++tile) {
                if (tile == end - 1) let_next_kernel_start();
                const int slot = __shfl_sync(0xffffffff, pages, i) * PAGE + key_of(at, tile) % PAGE;
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

template <int EIGHTS>
__device__ __forceinline__ void take_tile(ColumnSums<EIGHTS>& s, const u32 (&q)[EIGHTS][SLICES][2], const Ring& ring, u32 unit, u32 head, int live, float scale_log2, int lane) {
    float scores[EIGHTS][4] = {};
    u32 weights[EIGHTS][2];
    ring.wait_full(unit);
    score(scores, q, ring.at(unit) + head * LINES * PIECE, lane);
    ring.release(unit, lane);
    if (live > 0) make_weights(s, scores, weights, live, scale_log2, lane);
    ring.wait_full(unit + 1);
    if (live > 0) {
        const u32 values = ring.at(unit + 1) + head * LINES * PIECE;
        if (live < TILE) clear_dead(values, live, lane);
        gather(s, weights, values, lane);
    }
    ring.release(unit + 1, lane);
}

// A warp's own shared memory: heads as they come, and prepared.
struct __align__(128) Heads {
    float angles[HEAD];
    u16 raw[(GROUP + 2) * HEAD];  // queries, key, value
    u16 q[GROUP * HEAD], k[HEAD];
    __device__ __forceinline__ const u16* v() const { return raw + (GROUP + 1) * HEAD; }
};

__device__ __forceinline__ void copy_16(void* target, const void* source) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(target)), "l"(source) : "memory");
}

// Ask for the angles of a sequence's newest token, which do not depend on the kernel before.
__device__ __forceinline__ void request_angles(const Arguments& a, Heads& heads, int context, int lane) {
    for (int i = 4 * lane; i < HEAD; i += 128) copy_16(heads.angles + i, a.cos_sin + (u64)(context - 1) * HEAD + i);
}

// Ask for the heads of a sequence's newest token: the group's queries, the key, the value.
__device__ __forceinline__ void request_heads(const Arguments& a, Heads& heads, int sequence, int head, int lane) {
    const u16* token = a.qkv + (u64)sequence * a.kv_heads * (GROUP + 2) * HEAD;
    for (int i = 8 * lane; i < (GROUP + 2) * HEAD; i += 256) {
        const int part = i < GROUP * HEAD ? head * GROUP * HEAD + i : (a.kv_heads * (GROUP + (i - GROUP * HEAD) / HEAD) + head) * HEAD + i % HEAD;
        copy_16(heads.raw + i, token + part);
    }
}

// More of it, which lasts: the norms' weights, and for a bundle its members' queries, as they come and then prepared.
struct Shelf {
    float norms[2][HEAD];
    float angles[MEMBERS][HEAD];
    u16 q[MEMBERS * GROUP * HEAD];
};

__device__ __forceinline__ void request_norms(const Arguments& a, Shelf& shelf, int lane) {
    for (int i = 4 * lane; NORMED && i < HEAD; i += 128) copy_16(shelf.norms[0] + i, a.q_norm + i), copy_16(shelf.norms[1] + i, a.k_norm + i);
}

// Ask for the angles and queries of all members.
__device__ __forceinline__ void request_members(const Arguments& a, Shelf& shelf, int place, int head, int lane) {
    const Member own = lane < MEMBERS ? a.members[place * ROWS + lane] : Member{-1, 0};
#pragma unroll
    for (int m = 0; m < MEMBERS; ++m) {
        const int sequence = __shfl_sync(0xffffffff, own.sequence, m), context = __shfl_sync(0xffffffff, own.context, m);
        if (sequence < 0) continue;
        for (int i = 4 * lane; i < HEAD; i += 128) copy_16(shelf.angles[m] + i, a.cos_sin + (u64)(context - 1) * HEAD + i);
        const u16* queries = a.qkv + ((u64)sequence * a.kv_heads * (GROUP + 2) + head * GROUP) * HEAD;
        for (int i = 8 * lane; i < GROUP * HEAD; i += 256) copy_16(shelf.q + m * GROUP * HEAD + i, queries + i);
    }
}

// What was asked for, prepared in place: a lane writes what it has read. What is nobody's is whatever was there.
__device__ __forceinline__ void prepare_members(const Arguments& a, Shelf& shelf, int lane) {
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncwarp();
    const Head norm = load_numbers(shelf.norms[0], lane);
    for (int m = 0; m < MEMBERS; ++m) {
        const Head angles = load_numbers(shelf.angles[m], lane);
#pragma unroll
        for (int i = 0; i < GROUP; ++i) {
            u16* query = shelf.q + (m * GROUP + i) * HEAD;
            prepare(load_numbers(query, lane), norm, angles, a.eps, query, nullptr, lane);
        }
    }
    __syncwarp();
}

// What was asked for, prepared. `slot` is where the newest key goes, if this block has it; -1 if not.
__device__ __forceinline__ void prepare_heads(const Arguments& a, Heads& heads, const Shelf& shelf, int slot, int head, int lane) {
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncwarp();
    const Head angles = load_numbers(heads.angles, lane), norm = load_numbers(shelf.norms[0], lane);
    Head queries[GROUP];
#pragma unroll
    for (int i = 0; i < GROUP; ++i) queries[i] = load_numbers(heads.raw + i * HEAD, lane);  // before anything is written
#pragma unroll
    for (int i = 0; i < GROUP; ++i) prepare(queries[i], norm, angles, a.eps, heads.q + i * HEAD, nullptr, lane);
    if (slot >= 0) {
        const u64 place = ((u64)slot * a.kv_heads + head) * HEAD;
        prepare(load_numbers(heads.raw + GROUP * HEAD, lane), load_numbers(shelf.norms[1], lane), angles, a.eps, heads.k, a.k_cache + place, lane);
        for (int c = lane; c < HEAD; c += 32) a.v_cache[place + c] = heads.v()[c];
    }
    __syncwarp();
}

// Where the newest key of a sequence goes.
__device__ __forceinline__ int newest_slot(const Arguments& a, const Start& at) {
    const int newest = at.own.context - 1;
    return a.page_table[(u64)at.own.sequence * a.table_stride + newest / PAGE] * PAGE + newest % PAGE;
}

// Writes a sequence's heads out of sums whose totals are whole.
__device__ __forceinline__ void write(const Arguments& a, const RowSums& s, int sequence, int head, int lane) {
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

// A block that goes on with a sequence leaves a part for each of its heads to the block that begins it.
__device__ __forceinline__ Part part_of(const Arguments& a, u32 block, int head) {
    const u64 part = ((u64)(head / HEADS) * a.blocks + block) * HEADS + head % HEADS;
    return {a.sums + part * GROUP * HEAD, a.bests + part * 2 * GROUP};
}

// What the block that begins a sequence has, where a bundle reads for it.
__device__ __forceinline__ Part first_part_of(const Arguments& a, int sequence, int head) {
    const u64 part = (u64)sequence * a.kv_heads + head;
    return {a.first_sums + part * GROUP * HEAD, a.first_bests + part * 2 * GROUP};
}

// A bundle leaves one of each block that reads it, from a member's first row on. No two have the same place: along the line one of the two grows.
__device__ __forceinline__ Part part_of_bundle(const Arguments& a, int place, u32 block, int head, int member) {
    const u64 part = ((u64)(head / HEADS) * (a.room + a.blocks) + place + block) * HEADS + head % HEADS;
    return {a.bundle_sums + (part * ROWS + member * GROUP) * HEAD, a.bundle_bests + part * 2 * ROWS + member * GROUP};
}

template <int USED>
__device__ __forceinline__ void keep(const RowSums& s, const Part& part, int lane) {
#pragma unroll
    for (int half = 0; half < (USED > 8 ? 2 : 1); ++half) {
        const int row = lane / 4 + 8 * half;
        if (row >= USED) continue;
        float* sums = part.sums + row * HEAD + 2 * (lane % 4);
#pragma unroll
        for (int n = 0; n < 2 * SLICES; ++n) *(float2*)(sums + 8 * n) = make_float2(s.values[n][2 * half], s.values[n][2 * half + 1]);
        if (lane % 4 == 0) part.bests[row] = s.best[half], part.bests[USED + row] = s.total[half];
    }
}

// Adds what `keep` left of other keys, of USED rows.
template <int USED>
__device__ __forceinline__ void take_part(RowSums& s, const Part& part, int lane) {
#pragma unroll
    for (int half = 0; half < (GROUP > 8 ? 2 : 1); ++half) {
        const int row = lane / 4 + 8 * half;
        if (row >= GROUP) continue;
        const float* sums = part.sums + row * HEAD + 2 * (lane % 4);
        float2 values[2 * SLICES];
#pragma unroll
        for (int n = 0; n < 2 * SLICES; ++n) values[n] = __ldcg((const float2*)(sums + 8 * n));
        const float best = __ldcg(part.bests + row), total = __ldcg(part.bests + USED + row);
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

// The blocks that have an entry's tiles: the first, and how many more.
struct Span {
    u32 first, more;
};

__device__ __forceinline__ Span span_of(int first, int next, u32 blocks, u32 total) {
    const u32 block = owner_of(first, blocks, total);
    return {block, owner_of(next - 1, blocks, total) - block};
}

// A sequence that a bundle reads for has parts in several places. Whoever leaves the last of them joins them all, in the same order whoever it is:
// nobody waits.
__device__ __forceinline__ void join(const Arguments& a, int sequence, int head, Span own, int bundle, int member, Span bundled, int lane) {
    RowSums s = {};
    s.best[0] = s.best[1] = LOWEST;
    take_part<GROUP>(s, first_part_of(a, sequence, head), lane);
    for (u32 other = 1; other <= own.more; ++other) take_part<GROUP>(s, part_of(a, own.first + other, head), lane);
    for (u32 other = 0; other <= bundled.more; ++other) take_part<ROWS>(s, part_of_bundle(a, bundle, bundled.first + other, head, member), lane);
    if (lane == 0) a.arrivals[sequence * a.kv_heads + head] = 0;
    write(a, s, sequence, head, lane);
}

// A part of a sequence that many blocks share: a block may go on with one such sequence, and begin another.
__device__ __forceinline__ Piece* pieces_of(const Arguments& a, u32 block, bool begins, int head) {
    return a.pieces + ((((u64)(head / HEADS) * a.blocks + block) * 2 + begins) * HEADS + head % HEADS) * GROUP * PIECES;
}

// A piece is of every eighth of 32 dims, which are one lane's.
template <int EIGHTS>
__device__ __forceinline__ void leave_part(const ColumnSums<EIGHTS>& s, Piece* pieces, int lane) {
#pragma unroll
    for (int n = 0; n < EIGHTS; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            const int query = 8 * n + 2 * (lane % 4) + c;
            if (query >= GROUP) continue;
            const float total = s.total[n][c], share = total == 0.f ? 0.f : 1.f / total, weight = total == 0.f ? LOWEST : s.best[n][c] + log2f(total);
#pragma unroll
            for (int i = 0; i < SLICES; i += 2) {
                const float4 output = make_float4(s.values[n][i][c] * share, s.values[n][i][2 + c] * share, s.values[n][i + 1][c] * share, s.values[n][i + 1][2 + c] * share);
                leave(pieces + query * PIECES + 4 * i + lane / 4, output, weight);
            }
        }
}

// A sequence that many blocks share, without a bundle, whose parts they leave: those that have nothing behind it wait for all parts and join a share
// each. All blocks of the kernel run at the same time, and none of those has waited for another before it left its part.
__device__ __forceinline__ void join_together(const Arguments& a, const Start& at, Span span, int head, u32 blocks, u32 total, u32 block, int lane) {
    if (is_bundle(a, at) || (MEMBERS > 1 && at.own.bundle >= 0) || span.more + 1 < MANY_PARTS) return;
    const bool goes_on = first_of(span.first + span.more + 1, blocks, total) > at.next;  // the last of them, mostly
    const u32 joiners = span.more + !goes_on;
    if (block - span.first >= joiners) return;
    const auto part_at = [&](u32 i) { return pieces_of(a, span.first + i, i == 0, head); };
    join_share(part_at, span.more + 1, a.output + ((u64)at.own.sequence * a.kv_heads + head) * GROUP * HEAD, block - span.first, joiners, lane);
}

// What a warp has of a sequence becomes its output, or a part of it. Where there is no bundle, the block that begins the sequence waits for parts of
// blocks behind its own, and a part is the first thing that those do: nobody waits for ever. Of many parts see `join_together`.
template <int EIGHTS>
__device__ __forceinline__ void finish(const Arguments& a, const ColumnSums<EIGHTS>& columns, const Start& at, Span span, int head, u32 blocks, u32 total, u32 block, int lane) {
    const bool is_bundled = MEMBERS > 1 && at.own.bundle >= 0;
    if (!is_bundled && span.more + 1 >= MANY_PARTS) return leave_part(columns, pieces_of(a, block, block == span.first, head), lane);
    RowSums s = rows_of(columns, lane);
    int* counter = a.arrivals + at.own.sequence * a.kv_heads + head;
    if (is_bundled) {
        const int bundle = at.own.bundle / ROWS, member = at.own.bundle % ROWS;
        const Span bundled = span_of(a.first_tile[bundle], a.first_tile[bundle + 1], blocks, total);
        keep<GROUP>(s, block == span.first ? first_part_of(a, at.own.sequence, head) : part_of(a, block, head), lane);
        __syncwarp();
        const bool is_last = lane == 0 && arrive(counter) == (int)(span.more + bundled.more + 1);
        if (__any_sync(0xffffffff, is_last)) join(a, at.own.sequence, head, span, bundle, member, bundled, lane);
        return;
    }
    if (block != span.first) {
        keep<GROUP>(s, part_of(a, block, head), lane);
        __syncwarp();
        if (lane == 0) count_part(counter);
        return;
    }
    if (span.more) {
        if (lane == 0) {
            while (counted_parts(counter) != (int)span.more) {
            }
            *counter = 0;
        }
        __syncwarp();
        for (u32 other = 1; other <= span.more; ++other) take_part<GROUP>(s, part_of(a, block + other, head), lane);
    }
    write(a, s, at.own.sequence, head, lane);
}

// The same of a bundle: a part for all members.
__device__ __forceinline__ void finish_bundle(const Arguments& a, const RowSums& s, const Start& at, Span bundled, int head, u32 blocks, u32 total, u32 block, int lane) {
    keep<ROWS>(s, part_of_bundle(a, at.place, block, head, 0), lane);
    const int sequence = lane < MEMBERS ? a.members[at.place * ROWS + lane].sequence : -1;
    Span own = {0, 0};
    if (sequence >= 0) own = span_of(a.first_tile[a.room + sequence], a.first_tile[a.room + sequence + 1], blocks, total);
    __syncwarp();
    const bool is_last = sequence >= 0 && arrive(a.arrivals + sequence * a.kv_heads + head) == (int)(own.more + bundled.more + 1);
    u32 last = __ballot_sync(0xffffffff, is_last);
    for (; last; last &= last - 1) {
        const int member = __ffs(last) - 1;
        const Span theirs = {__shfl_sync(0xffffffff, own.first, member), __shfl_sync(0xffffffff, own.more, member)};
        join(a, __shfl_sync(0xffffffff, sequence, member), head, theirs, at.place, member, bundled, lane);
    }
}

// Ask for what an entry needs, but for what the kernel before makes; the slot of its newest key, or -1 where this block does not have it.
__device__ __forceinline__ int request_known(const Arguments& a, Heads& heads, const Start& at, int end, int lane) {
    if (is_bundle(a, at)) return -1;
    request_angles(a, heads, at.own.context, lane);
    return at.next <= end ? newest_slot(a, at) : -1;
}

__device__ __forceinline__ void request_made(const Arguments& a, Heads& heads, Shelf& shelf, const Start& at, int head, int lane) {
    if (is_bundle(a, at))
        request_members(a, shelf, at.place, head, lane);
    else
        request_heads(a, heads, at.own.sequence, head, lane);
}

// A warp's sums over `tiles` of an entry, of which `live` keys count, and over `newest`'s key if that is one; `begun` is called behind the first tile.
template <int QUERIES, class Begun>
__device__ __forceinline__ ColumnSums<EIGHTS_OF(QUERIES)> walk(const Arguments& a, const u16* queries, const Heads* newest, const Ring& ring, u32 unit, int tiles, int live, int head, int lane, Begun begun) {
    ColumnSums<EIGHTS_OF(QUERIES)> s;
    u32 q[EIGHTS_OF(QUERIES)][SLICES][2];
    load_queries(q, queries, HEAD, QUERIES, lane);
    if (newest) take_newest(s, q, newest->k, newest->v(), a.scale_log2, lane);
    for (int i = 0; i < tiles; ++i, unit += 2, live -= TILE) {
        take_tile(s, q, ring, unit, head % HEADS, live, a.scale_log2, lane);
        if (i == 0) begun();
    }
    add_totals(s);
    return s;
}

__device__ __forceinline__ void consume(const Arguments& a, Heads& heads, Shelf& shelf, const Ring& ring, Start at, int tile, int end, u32 blocks, u32 total, u32 block, int head) {
    const int lane = threadIdx.x % 32;
    request_norms(a, shelf, lane);
    int slot = request_known(a, heads, at, end, lane);
    wait_for_kernel_before();
    request_made(a, heads, shelf, at, head, lane);
    Span span = {};
    for (u32 unit = 0; tile < end;) {
        span = span_of(at.first, at.next, blocks, total);  // not behind the walk, where others wait for it
        const int last = min(at.next, end);
        const int live = at.own.context - 1 - key_of(at, tile);
        const Start after = last < end ? following(a, at) : at;
        const auto request_next = [&] {  // every lane has read what is overwritten now
            if (last == end) return;
            slot = request_known(a, heads, after, end, lane);
            request_made(a, heads, shelf, after, head, lane);
        };
        if (is_bundle(a, at)) {
            prepare_members(a, shelf, lane);
            const auto s = walk<MEMBERS * GROUP>(a, shelf.q, nullptr, ring, unit, last - tile, live, head, lane, request_next);
            finish_bundle(a, rows_of(s, lane), at, span, head, blocks, total, block, lane);
        } else {
            prepare_heads(a, heads, shelf, slot, head, lane);
            const auto s = walk<GROUP>(a, heads.q, slot >= 0 ? &heads : nullptr, ring, unit, last - tile, live, head, lane, request_next);
            finish(a, s, at, span, head, blocks, total, block, lane);
        }
        unit += 2 * (last - tile), tile = last, at = after;
    }
    join_together(a, at, span, head, blocks, total, block, lane);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    batch_attention(const __grid_constant__ TensorMap keys, const __grid_constant__ TensorMap values, const __grid_constant__ Arguments a) {
    extern __shared__ u8 dynamic[];
    __shared__ Heads heads[HEADS];
    __shared__ __align__(8) u64 barriers[2 * UNITS];
    const u32 units = (shared_address(dynamic) + 1023) / 1024 * 1024;
    const Ring ring{units, shared_address(barriers), shared_address(barriers + UNITS)};
    if (threadIdx.x == 0) {
        for (int i = 0; i < UNITS; ++i) barrier_init(ring.full + 8 * i, 1), barrier_init(ring.empty + 8 * i, HEADS);
        barriers_are_visible();
    }
    __syncthreads();
    const u32 total = a.first_tile[a.room + a.rows], blocks = busy(a.blocks, total), block = blockIdx.x % a.blocks;
    const int group = blockIdx.x / a.blocks, warp = threadIdx.x / 32;
    if (block >= blocks) return wait_for_kernel_before();
    const Start at = a.starts[block];
    const int tile = first_of(block, blocks, total), end = first_of(block + 1, blocks, total);
    if (warp == HEADS) {  // cached keys do not depend on the kernel before
        produce(a, keys, values, ring, at, tile, end, group);
        return wait_for_kernel_before();
    }
    Shelf* shelves = (Shelf*)(dynamic + (units - shared_address(dynamic)) + UNITS * UNIT_BYTES);
    consume(a, heads[warp], shelves[warp], ring, at, tile, end, blocks, total, block, group * HEADS + warp);
}
