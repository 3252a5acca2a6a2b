// Products of many rows with what surrounds them in a decoder block (skinny.py), for Hopper.
//
// A tile is 128 rows of X by COLS rows of W: two warpgroups multiply 64 rows each, X on the left, and a warp copies 64 inputs of both into one of STAGES
// stages at a time. Blocks of a cluster take tiles of the same outputs and each fetches a part of the weights for all of them, so that the level-2 cache
// is read less. Blocks stay and take one tile after another: all outputs of a strip of rows, as many as the level-2 cache holds while weights pass
// through it, then the next strip. At a card's power limit time is energy, of which each byte from memory takes its part.
//
// Weights lie in shared memory in an order of their own, which the map of the copy brings about: of 16 outputs, column 8 h + 2 q + e of the product is
// output 4 q + 2 h + e. So the four numbers that thread q of four holds of a row belong to neighbours, and are stored at once.
//
// Defined by the compiler: COLS, STAGES, CLUSTER, KIND (0 store, 1 gated, 2 add, 5 heads), SCALED (rows times a root), BIASED, GELU. Gated tiles hold
// COLS / 2 gates and then their values. Tiles of heads hold whole heads of SIZE numbers, of queries, keys and values, which end as prepare.py has them
// (NORMED: q and k are normalised).

#include "activation.cuh"

#define ROWS 128
#define CONSUMERS 256
#define ROOTERS 96
#define SUMS (COLS / 2)
#define HALF_BYTES (COLS * 64)
#define STAGE_BYTES (ROWS * 128 + 2 * HALF_BYTES)
#define TILE_OUTPUTS (KIND == 1 ? COLS / 2 : COLS)
#define STRIP_BYTES (24 << 20)     // of X: what stays in the level-2 cache of an H200 beside what passes through it
#define PASSING (24u << 20)        // results, from which on nothing of them is in that cache when they are read
#define PER_CLUSTER (2 / CLUSTER)  // halves of a tile of weights that a block fetches

struct Arguments {
    const float* squares;  // [parts, rows]: sums of squares of the rows of X before their gain (SCALED)
    const u16* bias;       // [outputs] (BIASED)
    u16* output;           // [rows, outputs]; for KIND 2 the gained stream
    float* stream;         // [rows, outputs] (KIND 2), in place
    const float* gain;     // [outputs] (KIND 2)
    float* squares_out;    // [tiles, rows] (KIND 2)
    int rows, outputs, inputs, parts;  // ROWS rows at least
    float inverse_size, eps;
    int late;  // 1: the next kernel may not start before the kernel before this one has ended
#if KIND == 5
    const long long *positions, *slots;            // [rows]
    const float *cos_sin, *q_norm, *k_norm;        // [positions, SIZE], [SIZE]
    u16 *keys, *values;                            // [rows, kv_heads, SIZE], or null; the output has the queries
    u16 *key_cache, *value_cache;                  // [slots, kv_heads, SIZE]
    int heads, kv_heads;
    float head_eps;
#endif
};

struct Work {
    u32 first, stride, tiles, steps, row_tiles, column_tiles, last_row;
    u32 strip;  // tiles of rows in a strip, at the most
};

// The last tile of all rows begins where it is whole: copies slow down many times where they reach past the end of a matrix. Of its rows those
// before `first_row` are another tile's.
struct Tile {
    u32 row, first_row, output;
    u32 column;  // the place among the tiles of a row
    bool leaves;  // its rows of X are read for the last time, and should not keep others' data from the level-2 cache
};

__device__ __forceinline__ Work own_work(const Arguments& a) {
    Work work;
    work.row_tiles = (a.rows + ROWS * CLUSTER - 1) / (ROWS * CLUSTER);
    work.column_tiles = (a.outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS;
    work.first = blockIdx.x / CLUSTER;
    work.stride = gridDim.x / CLUSTER;
    const u32 all = work.row_tiles * work.column_tiles;
    work.tiles = all > work.first ? (all - work.first - 1) / work.stride + 1 : 0;
    work.steps = (a.inputs + 63) / 64;
    work.last_row = a.rows - ROWS;
    const u32 most = max(1, STRIP_BYTES / (ROWS * CLUSTER * 2 * a.inputs)), strips = (work.row_tiles + most - 1) / most;
    work.strip = (work.row_tiles + strips - 1) / strips;
    return work;
}

__device__ __forceinline__ Tile tile_of(const Work& work, u32 done) {
    const u32 index = work.first + done * work.stride, whole = work.strip * work.column_tiles, first = index / whole * work.strip;
    const u32 within = index % whole, height = min(work.strip, work.row_tiles - first);
    Tile tile;
    tile.column = within / height;
    tile.leaves = work.strip < work.row_tiles && within + work.stride >= height * work.column_tiles;
    tile.row = ((first + within % height) * CLUSTER + (CLUSTER > 1 ? cluster_rank() : 0)) * ROWS;
    tile.first_row = tile.row, tile.row = min(tile.row, work.last_row);
    tile.output = tile.column * TILE_OUTPUTS;
    return tile;
}

__device__ __forceinline__ void copy_half(u32 target, const TensorMap& map, int column, int group, u32 barrier, u64 policy) {
    if (CLUSTER > 1)
        asm volatile(
            "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint [%0], "
            "[%1, {%2, %3, %3, %3, %4}], [%5], %6, %7;" ::"r"(target),
            "l"(&map), "r"(column), "r"(0), "r"(group), "r"(barrier), "h"((u16)((1 << CLUSTER) - 1)), "l"(policy)
            : "memory");
    else
        asm volatile(
            "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3, %3, %3, %4}], "
            "[%5], %6;" ::"r"(target),
            "l"(&map), "r"(column), "r"(0), "r"(group), "r"(barrier), "l"(policy)
            : "memory");
}

// What one warp of a block asks for, in the order in which it is multiplied.
struct Requests {
    const TensorMap &weight, &input;
    const Arguments& a;
    const Work& work;
    u32 stages, full;
    u64 passing, staying;  // policies of the level-2 cache
    Tile tile;
    u32 done, step;

    __device__ __forceinline__ void weights(u32 stage) {
        const u32 target = stages + stage * STAGE_BYTES + ROWS * 128, barrier = full + 8 * stage, rank = CLUSTER > 1 ? cluster_rank() : 0;
        barrier_expect(barrier, STAGE_BYTES);
#pragma unroll
        for (int i = 0; i < PER_CLUSTER; ++i) {
            const u32 half = rank * PER_CLUSTER + i;
            const u32 first = tile.output + half * (KIND == 1 ? (u32)a.outputs : COLS / 2);
            copy_half(target + half * HALF_BYTES, weight, 64 * step, first / 16, barrier, passing);
        }
    }
    __device__ __forceinline__ void inputs(u32 stage) {
        copy_box(stages + stage * STAGE_BYTES, input, 64 * step, tile.row, full + 8 * stage, tile.leaves ? passing : staying);
    }
    __device__ __forceinline__ void begin() { done = step = 0, tile = tile_of(work, 0); }
    __device__ __forceinline__ void next() {
        if (++step == work.steps) {
            step = 0;
            if (++done < work.tiles) tile = tile_of(work, done);
        }
    }
};

__device__ __forceinline__ void produce(Requests requests, u32 empty) {
    const u32 count = requests.work.tiles * requests.work.steps, filled = count < STAGES ? count : STAGES;
    requests.begin();
    for (u32 i = 0; i < filled; ++i, requests.next()) requests.weights(i);  // they do not depend on the kernel before
    wait_for_kernel_before();
    requests.begin();
    for (u32 i = 0; i < filled; ++i, requests.next()) requests.inputs(i);
    u32 stage = 0, parity = 0;
    for (u32 i = filled; i < count; ++i, requests.next()) {
        barrier_wait(empty + 8 * stage, parity);
        requests.weights(stage);
        requests.inputs(stage);
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
}

// Tells every block that fills this stage that a warp has read it.
__device__ __forceinline__ void release(u32 empty, u32 stage) {
    const u32 lane = threadIdx.x % 32;
    if (CLUSTER == 1) {
        if (lane == 0) barrier_arrive(empty + 8 * stage);
    } else if (lane < CLUSTER) {
        u32 remote;
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(empty + 8 * stage), "r"(lane));
        asm volatile("mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%0];" ::"r"(remote) : "memory");
    }
}

// The roots of the mean squares of a tile's rows, for two tiles at a time. Other warps than those that multiply find them: the parts are many, and each
// trip to memory is as long as a step.
struct Roots {
    float* values;  // [2][ROWS]
    u32 full, empty;
};

__device__ __forceinline__ void find_roots(const Arguments& a, const Work& work, const Roots& roots, int thread) {
    wait_for_kernel_before();
    for (u32 done = 0; done < work.tiles; ++done) {
        const u32 first = tile_of(work, done).row, buffer = done % 2;
        if (done >= 2) barrier_wait(roots.empty + 8 * buffer, (done / 2 - 1) & 1);
        for (int i = thread; i < ROWS; i += ROOTERS) {
            float sum = 0.f;
#pragma unroll 8
            for (int part = 0; part < a.parts; ++part) sum += __ldcg(a.squares + (u64)part * a.rows + first + i);
            roots.values[buffer * ROWS + i] = rsqrtf(sum * a.inverse_size + a.eps);
        }
        barrier_arrive(roots.full + 8 * buffer);
    }
}

__device__ __forceinline__ void take_roots(const Roots& roots, u32 done, float (&own)[2]) {
    const u32 buffer = done % 2, row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    barrier_wait(roots.full + 8 * buffer, (done / 2) & 1);
    own[0] = roots.values[buffer * ROWS + row], own[1] = roots.values[buffer * ROWS + row + 8];
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(roots.empty + 8 * buffer);
}

// Four neighbouring results of group `m` in one of a thread's two rows.
__device__ __forceinline__ float4 four(const float (&sums)[SUMS], int m, int half) {
    return make_float4(sums[8 * m + 2 * half], sums[8 * m + 2 * half + 1], sums[8 * m + 4 + 2 * half], sums[8 * m + 5 + 2 * half]);
}

__device__ __forceinline__ float4 times(float4 v, float by) { return make_float4(v.x * by, v.y * by, v.z * by, v.w * by); }

__device__ __forceinline__ uint2 packed(float4 v) { return make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w)); }

__device__ __forceinline__ void store(u16* at, float4 v) { *(uint2*)at = packed(v); }

// What is not read soon, or is too much to be there when it is: it leaves the level-2 cache to others.
__device__ __forceinline__ void store_away(u16* at, float4 v) { __stcs((uint2*)at, packed(v)); }

__device__ __forceinline__ float4 add_bias(const Arguments& a, u32 output, float4 v) {
    const uint2 bias = *(const uint2*)(a.bias + output);
    return make_float4(v.x + from_bf16(bias.x), v.y + from_bf16(bias.x >> 16), v.z + from_bf16(bias.y), v.w + from_bf16(bias.y >> 16));
}

__device__ __forceinline__ void finish(const Arguments& a, const Tile& tile, const float (&sums)[SUMS], const float (&roots)[2]) {
    const u32 lane = threadIdx.x % 32, row = tile.row + threadIdx.x / 32 * 16 + lane / 4, output = tile.output + 4 * (lane % 4);
    const bool passes = (u64)a.rows * a.outputs >= PASSING;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        if (row + 8 * half < tile.first_row) continue;
        const u64 at = (u64)(row + 8 * half) * a.outputs + output;
#pragma unroll
        for (int m = 0; m < TILE_OUTPUTS / 16; ++m) {
            if (output + 16 * m >= a.outputs) break;
            float4 v = four(sums, m, half);
            if (SCALED) v = times(v, roots[half]);
            if (BIASED) v = add_bias(a, output + 16 * m, v);
            if (KIND == 1) {
                float4 up = four(sums, m + COLS / 32, half);
                if (SCALED) up = times(up, roots[half]);
                activate(v.x, v.y, up.x, up.y);
                activate(v.z, v.w, up.z, up.w);
            }
            if (passes)
                store_away(a.output + at + 16 * m, v);
            else
                store(a.output + at + 16 * m, v);
        }
    }
}

#if KIND == 5
#define PAIRS (SIZE / 32)  // groups of 16 numbers in half a head: those of the second half turn with them

__device__ __forceinline__ float dot(float4 v) { return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; }

__device__ __forceinline__ float4 fused(float4 x, float4 by, float4 y, float4 times) {
    return make_float4(x.x * by.x + y.x * times.x, x.y * by.y + y.y * times.y, x.z * by.z + y.z * times.z, x.w * by.w + y.w * times.w);
}

// The head that a thread and its three neighbours hold: normalised over all of them, then turned.
__device__ __forceinline__ void turn(float4 (&v)[2 * PAIRS], const float* angles, const float* norm, float eps) {
    if (NORMED) {
        float sum = 0.f;
#pragma unroll
        for (int m = 0; m < 2 * PAIRS; ++m) sum += dot(v[m]);
        sum += __shfl_xor_sync(0xffffffff, sum, 1);
        sum += __shfl_xor_sync(0xffffffff, sum, 2);
        const float root = rsqrtf(sum * (1.f / SIZE) + eps);
#pragma unroll
        for (int m = 0; m < 2 * PAIRS; ++m) {
            const float4 weight = *(const float4*)(norm + 16 * m);
            v[m] = make_float4(v[m].x * root * weight.x, v[m].y * root * weight.y, v[m].z * root * weight.z, v[m].w * root * weight.w);
        }
    }
#pragma unroll
    for (int m = 0; m < PAIRS; ++m) {
        const float4 cosine = *(const float4*)(angles + 16 * m), sine = *(const float4*)(angles + SIZE / 2 + 16 * m);
        const float4 first = v[m], second = v[m + PAIRS];
        v[m] = fused(first, cosine, second, times(sine, -1.f)), v[m + PAIRS] = fused(second, cosine, first, sine);
    }
}

__device__ __forceinline__ void finish_heads(const Arguments& a, const Tile& tile, const float (&sums)[SUMS]) {
    const u32 column = 4 * (threadIdx.x % 4);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const u32 row = tile.row + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * half;
        const float* angles = a.cos_sin + a.positions[row] * SIZE + column;
        const long long slot = a.slots[row];
#pragma unroll
        for (int i = 0; i < COLS / SIZE; ++i) {
            const int head = tile.output / SIZE + i, key = head - a.heads, value = key - a.kv_heads;
            if (value >= a.kv_heads) break;
            float4 v[2 * PAIRS];
#pragma unroll
            for (int m = 0; m < 2 * PAIRS; ++m) {
                v[m] = four(sums, 2 * PAIRS * i + m, half);
                if (BIASED) v[m] = add_bias(a, head * SIZE + column + 16 * m, v[m]);
            }
            if (value < 0) turn(v, angles, (key < 0 ? a.q_norm : a.k_norm) + column, a.head_eps);
            if (row < tile.first_row) continue;
            const int place = value < 0 ? key : value;  // among keys, or values
            u16* plain = key < 0 ? a.output + ((u64)row * a.heads + head) * SIZE : value < 0 ? a.keys : a.values;
            if (key >= 0 && plain) plain += ((u64)row * a.kv_heads + place) * SIZE;
            u16* cached = key < 0 || slot < 0 ? nullptr : (value < 0 ? a.key_cache : a.value_cache) + ((u64)slot * a.kv_heads + place) * SIZE;
#pragma unroll
            for (int m = 0; m < 2 * PAIRS; ++m) {
                if (plain) store(plain + column + 16 * m, v[m]);
                if (cached && plain)
                    store_away(cached + column + 16 * m, v[m]);
                else if (cached)
                    store(cached + column + 16 * m, v[m]);
            }
        }
    }
}
#endif

// What a tile adds to, a part at a time: PART groups of 16 outputs in a thread's two rows. Each part is on its way while the one before it is added, the
// first while the last products run.
#define PART 3
#define PARTS ((COLS / 16 + PART - 1) / PART)

struct Added {
    float4 parts[2][2 * PART];
    u32 row, first_row, output;

    __device__ __forceinline__ bool is_inside(const Arguments& a, int part, int i) const {
        return part * PART + i / 2 < COLS / 16 && row + i % 2 * 8 >= first_row && output + 16 * (part * PART + i / 2) < a.outputs;
    }
    __device__ __forceinline__ u64 place(const Arguments& a, int part, int i) const {
        return (u64)(row + i % 2 * 8) * a.outputs + output + 16 * (part * PART + i / 2);
    }
    __device__ __forceinline__ void request(const Arguments& a, int part) {
#pragma unroll
        for (int i = 0; i < 2 * PART; ++i)
            if (is_inside(a, part, i)) parts[part % 2][i] = __ldcg((const float4*)(a.stream + place(a, part, i)));
    }
};

__device__ __forceinline__ void begin_add(const Arguments& a, const Tile& tile, Added& added) {
    added.row = tile.row + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, added.first_row = tile.first_row, added.output = tile.output + 4 * (threadIdx.x % 4);
    added.request(a, 0);
}

__device__ __forceinline__ void finish_add(const Arguments& a, const Tile& tile, const float (&sums)[SUMS], Added& added) {
    float squares[2] = {};
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        if (part + 1 < PARTS) added.request(a, part + 1);
#pragma unroll
        for (int i = 0; i < 2 * PART; ++i) {
            if (!added.is_inside(a, part, i)) continue;
            const u64 at = added.place(a, part, i);
            const u32 output = added.output + 16 * (part * PART + i / 2);
            const float4 before = added.parts[part % 2][i], gain = *(const float4*)(a.gain + output);
            float4 v = four(sums, (part * PART + i / 2) % (COLS / 16), i % 2);
            if (BIASED) v = add_bias(a, output, v);
            v = make_float4(v.x + before.x, v.y + before.y, v.z + before.z, v.w + before.w);
            __stcg((float4*)(a.stream + at), v);
            squares[i % 2] += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
            store(a.output + at, make_float4(v.x * gain.x, v.y * gain.y, v.z * gain.z, v.w * gain.w));
        }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        squares[half] += __shfl_xor_sync(0xffffffff, squares[half], 1);
        squares[half] += __shfl_xor_sync(0xffffffff, squares[half], 2);
        if (threadIdx.x % 4 == 0 && added.row + 8 * half >= added.first_row) a.squares_out[(u64)tile.column * a.rows + added.row + 8 * half] = squares[half];
    }
}

__device__ __forceinline__ void consume(const Arguments& a, const Work& work, const Roots& roots, u32 stages, u32 full, u32 empty) {
    const u32 own_rows = threadIdx.x / 128 * 64;
    float sums[SUMS], own_roots[2];
    Added added;
    u32 stage = 0, parity = 0;
    for (u32 done = 0; done < work.tiles; ++done) {
        const Tile tile = tile_of(work, done);
        for (u32 step = 0; step < work.steps; ++step) {
            const u32 base = stages + stage * STAGE_BYTES;
            barrier_wait(full + 8 * stage, parity);
            products_begin();
#pragma unroll
            for (int k = 0; k < 4; ++k)
                multiply(sums, describe(base + own_rows * 128 + 32 * k), describe(base + ROWS * 128 + 32 * k), step || k);
            products_commit();
            products_wait_but_last();
            if (step) release(empty, stage ? stage - 1 : STAGES - 1);
            if (++stage == STAGES) stage = 0, parity ^= 1;
        }
        if (KIND == 2) begin_add(a, tile, added);
        products_wait();
        release(empty, stage ? stage - 1 : STAGES - 1);
        if (SCALED) take_roots(roots, done, own_roots);
#if KIND == 5
        finish_heads(a, tile, sums);
#else
        if (KIND == 2)
            finish_add(a, tile, sums, added);
        else
            finish(a, tile, sums, own_roots);
#endif
    }
}

extern "C" __global__ void __launch_bounds__(CONSUMERS + 128, 1)
    many_rows(const __grid_constant__ TensorMap weight, const __grid_constant__ TensorMap input, const __grid_constant__ Arguments a) {
    extern __shared__ u8 shared[];
    __shared__ u64 barriers[2 * STAGES + 4];
    __shared__ float root_values[2 * ROWS];
    const u32 stages = (shared_address(shared) + 1023) / 1024 * 1024, full = shared_address(barriers), empty = full + 8 * STAGES;
    const Roots roots{root_values, empty + 8 * STAGES, empty + 8 * STAGES + 16};
    if (!a.late) let_next_kernel_start();
    if (threadIdx.x == CONSUMERS) {
        prefetch_map(weight);
        prefetch_map(input);
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, CONSUMERS / 32 * CLUSTER);
        }
        for (int i = 0; i < 2; ++i) {
            barrier_init(roots.full + 8 * i, ROOTERS);
            barrier_init(roots.empty + 8 * i, CONSUMERS / 32);
        }
        barriers_are_visible();
    }
    __syncthreads();
    if (CLUSTER > 1) cluster_arrive(), cluster_wait();  // nobody writes before the other blocks are there
    const Work work = own_work(a);
    if (threadIdx.x < CONSUMERS) {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");  // the copying warps' share is theirs
        wait_for_kernel_before();
        if (a.late) let_next_kernel_start();
        consume(a, work, roots, stages, full, empty);
    } else {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (SCALED && threadIdx.x >= CONSUMERS + 128 - ROOTERS) find_roots(a, work, roots, threadIdx.x - (CONSUMERS + 128 - ROOTERS));
        if (threadIdx.x == CONSUMERS) {
            produce({weight, input, a, work, stages, full, policy_evict_first(), policy_evict_last(), {}, 0, 0}, empty);
        }
    }
    __syncwarp();
    if (CLUSTER > 1) cluster_arrive(), cluster_wait();  // nobody leaves before the others are done with its memory
}
