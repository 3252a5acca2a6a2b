// A whole decode step of up to ROWS sequences in one launch: every layer's five ops and the head, with weights that never stop coming.
//
// A pair of blocks (a cluster) has tiles of 64 weight rows, each block half of their inputs. In every block one warp requests weights,
// op after op, as fast as the STAGES tiles of shared memory empty; it waits for nothing else, since weights depend on nothing. A second
// warp waits until the op before is done everywhere and then requests the inputs that meet those weights. Four warps compute, and
// between the linear ops they attend. An op is done when its counter in device memory has reached what is expected of it, so no op
// ends with an idle memory; what is lost between two of them is only what the stages cannot hold.
//
// All blocks must run at the same time. Formulas are skinny.py's and decode_attention.py's.
//
// Set by the compiler's command line: ROWS (8 or 16), DEPTH (64-input blocks of a tile), STAGES, and attention.cuh's.

#include "attention.cuh"

#define CONSUMERS 128
#define SUMS (ROWS / 2)  // float32 sums of a thread
#define GROUPS_OF_ROWS (ROWS / 8)
#define WEIGHT_BYTES (DEPTH * 8192)
#define STAGE_BYTES (WEIGHT_BYTES + DEPTH * ROWS * 128)

enum Kind { STORE, GATED, ADD, STORE_FLOAT, ATTEND };

struct Op {
    TensorMap weight, input;
    const float* squares;  // [parts, rows] (scaled)
    const u16* bias;       // [outputs], or null
    void* output;          // [rows, outputs]: bf16 or float32; for ADD the gained stream
    float* stream;         // [rows, outputs] (ADD), in place
    const float* gain;     // [outputs] (ADD)
    float* squares_out;    // [tiles, rows] (ADD)
    u16* k_cache;          // ATTEND
    u16* v_cache;
    const float* q_norm;
    const float* k_norm;
    int kind, outputs, steps, tiles, first, parts;  // steps: tiles of inputs of both blocks; first: the cluster that has tile 0
    float inverse_size, eps;
};

struct Arguments {
    const Op* ops;
    int* done;             // [num_ops], zero at the start
    attention::Arguments attend;
    int num_ops, rows, gelu;
#ifdef TRACE
    u64* trace;
#endif
};

struct Memory {
    float4 exchange[2][CONSUMERS];
    float roots[2][ROWS], squares[4 * ROWS];
    u64 full[STAGES], empty[STAGES], rooted[2], given[2], taken[2];
};

__device__ __forceinline__ int load_counter(const int* counter) {
    int value;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
    return value;
}

// Wait until op `number` is done everywhere; what it wrote may be read then, by bulk copies too.
__device__ __forceinline__ void wait_for_op(const Arguments& a, int number) {
    if (number < 0) return;
    const Op& op = a.ops[number];
    const int expected = op.kind == ATTEND ? a.attend.plan->live * a.attend.kv_heads : op.tiles * (GROUPS_OF_ROWS < 2 ? 1 : 2);
    while (load_counter(a.done + number) < expected) __nanosleep(20);
    asm volatile("fence.proxy.async;" ::: "memory");
}

#ifdef TRACE
__device__ __forceinline__ void mark(const Arguments& a, int number, int event) {
    u64 now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    if (blockIdx.x < 4) a.trace[(number * 4 + blockIdx.x) * 8 + event] = now;
}
#else
#define mark(...)
#endif

// The four warps' writes are done: say so.
__device__ __forceinline__ void count_done(const Arguments& a, int number) {
    sync_threads(1, CONSUMERS);
    if (threadIdx.x == 0) asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(a.done + number) : "memory");
}

// The tiles of an op that are this cluster's: `tile`, `tile` + `stride`, ...; and this block's steps of each.
struct Share {
    int tile, stride, tiles, first_step, steps;

    __device__ __forceinline__ Share(const Op& op, u32 rank) {
        const int cluster = blockIdx.x / 2;
        stride = gridDim.x / 2;
        tile = (cluster + stride - op.first) % stride;
        tiles = op.tiles;
        first_step = rank ? op.steps / 2 : 0;
        steps = rank ? op.steps - op.steps / 2 : op.steps / 2;
    }
};

struct Turn {  // which stage is next, and how often all have been used
    u32 stage = 0, round = 0;
    __device__ __forceinline__ void next() {
        if (++stage == STAGES) stage = 0, ++round;
    }
};

__device__ __forceinline__ void request_weights(const Arguments& a, u32 stages, u32 full, u32 empty, u32 rank) {
    const u64 once = policy_evict_first();
    Turn turn;
    for (int number = 0; number < a.num_ops; ++number) {
        const Op& op = a.ops[number];
        if (op.kind == ATTEND) continue;
        const bool gated = op.kind == GATED;
        for (Share share(op, rank); share.tile < share.tiles; share.tile += share.stride)
            for (int step = 0; step < share.steps; ++step, turn.next()) {
                if (turn.round) barrier_wait(empty + 8 * turn.stage, (turn.round - 1) & 1);
                const u32 barrier = full + 8 * turn.stage, target = stages + turn.stage * STAGE_BYTES;
                barrier_expect(barrier, WEIGHT_BYTES);
#pragma unroll
                for (int d = 0; d < DEPTH; ++d) {
                    const int column = ((share.first_step + step) * DEPTH + d) * 64;
                    if (gated)
                        copy_box_4d(target + d * 8192, op.weight, column, 0, 0, 4 * share.tile, barrier, once);
                    else
                        copy_box(target + d * 8192, op.weight, column, 64 * share.tile, barrier, once);
                }
            }
    }
}

// One thread: inputs for the weights, once they exist.
__device__ __forceinline__ void request_inputs(const Arguments& a, u32 stages, u32 full, u32 empty, u32 rank) {
    const u64 often = policy_evict_last();
    Turn turn;
    for (int number = 0; number < a.num_ops; ++number) {
        const Op& op = a.ops[number];
        if (op.kind == ATTEND) continue;
        prefetch_map(op.input);
        Share share(op, rank);
        if (share.tile >= share.tiles) continue;
        wait_for_op(a, number - 1);
        mark(a, number, 0);
        for (; share.tile < share.tiles; share.tile += share.stride)
            for (int step = 0; step < share.steps; ++step, turn.next()) {
                if (turn.round) barrier_wait(empty + 8 * turn.stage, (turn.round - 1) & 1);
                const u32 barrier = full + 8 * turn.stage, target = stages + turn.stage * STAGE_BYTES + WEIGHT_BYTES;
                barrier_expect(barrier, DEPTH * ROWS * 128);
#pragma unroll
                for (int d = 0; d < DEPTH; ++d)
                    copy_box(target + d * ROWS * 128, op.input, ((share.first_step + step) * DEPTH + d) * 64, 0, barrier, often);
            }
        mark(a, number, 1);
    }
}

// One warp: the roots that an op's sums are multiplied by.
__device__ __forceinline__ void take_roots(const Arguments& a, Memory& m, u32 rank) {
    const int lane = threadIdx.x % 32;
    int scaled = 0;
    for (int number = 0; number < a.num_ops; ++number) {
        const Op& op = a.ops[number];
        if (!op.squares || Share(op, rank).tile >= op.tiles) continue;
        if (lane == 0) wait_for_op(a, number - 1);
        __syncwarp();
        float sums[ROWS] = {};
        for (int part = lane; part < op.parts; part += 32)
#pragma unroll
            for (int row = 0; row < ROWS; ++row)
                if (row < a.rows) sums[row] += __ldcg(op.squares + part * a.rows + row);
#pragma unroll
        for (int row = 0; row < ROWS; ++row) {
            const float sum = warp_sum(sums[row]);
            if (lane == 0) m.roots[scaled % 2][row] = rsqrtf(sum * op.inverse_size + op.eps);
        }
        if (lane == 0) barrier_arrive(shared_address(&m.rooted[scaled % 2]));
        ++scaled;
    }
}

// A thread's sums of group `J` of eight rows.
template <int J>
__device__ __forceinline__ float4 group(const float (&sums)[SUMS]) {
    return make_float4(sums[4 * J], sums[4 * J + 1], sums[4 * J + 2], sums[4 * J + 3]);
}

// Give the other block its group of rows, take the one that is this block's: group j belongs to rank j, a single one to rank 0.
struct Exchange {
    u32 uses = 0;

    __device__ __forceinline__ void join(Memory& m, const float (&sums)[SUMS], float (&own)[4], u32 rank) {
        const u32 buffer = uses % 2, use = uses / 2;
        const int thread = threadIdx.x;
        const bool gives = GROUPS_OF_ROWS > 1 || rank == 1, takes = GROUPS_OF_ROWS > 1 || rank == 0;
        ++uses;
        if (gives) {
            if (use) barrier_wait_cluster(shared_address(&m.taken[buffer]), (use - 1) & 1);
            store_remote(shared_address(&m.exchange[buffer][thread]), 1 - rank, GROUPS_OF_ROWS > 1 && rank == 0 ? group<GROUPS_OF_ROWS - 1>(sums) : group<0>(sums));
            __syncwarp();
            if (thread % 32 == 0) arrive_remote(shared_address(&m.given[buffer]), 1 - rank);
        }
        if (takes) {
            barrier_wait_cluster(shared_address(&m.given[buffer]), use & 1);
            const float4 other = m.exchange[buffer][thread], mine = GROUPS_OF_ROWS > 1 && rank == 1 ? group<GROUPS_OF_ROWS - 1>(sums) : group<0>(sums);
            own[0] = mine.x + other.x, own[1] = mine.y + other.y, own[2] = mine.z + other.z, own[3] = mine.w + other.w;
            __syncwarp();
            if (thread % 32 == 0) arrive_remote(shared_address(&m.taken[buffer]), 1 - rank);
        }
    }
};

__device__ __forceinline__ float activate(float gate, bool gelu) {
    // (1 + tanh(x)) / 2 = 1 / (1 + exp(-2 x))
    const float inner = gelu ? 1.5957691216057308f * (gate + 0.044715f * gate * gate * gate) : gate;
    return gate / (1.f + __expf(-inner));
}

// What becomes of the finished sums of one group of eight rows.
__device__ __forceinline__ void finish(const Arguments& a, const Op& op, Memory& m, int tile, int j, float (&sums)[4], const float (&stream)[4], const float* roots) {
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const bool gated = op.kind == GATED;
    float square[2] = {};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        const int row = 8 * j + 2 * (lane % 4) + e % 2;
        const int output = gated ? 32 * tile + 8 * warp + lane / 4 : 64 * tile + 16 * warp + lane / 4 + e / 2 * 8;
        if (row >= a.rows || output >= op.outputs || (gated && e > 1)) continue;
        const u64 at = (u64)row * op.outputs + output;
        const float root = op.squares ? roots[row] : 1.f;
        float value = sums[e] * root;
        if (op.bias) value += from_bf16(op.bias[output]);
        if (op.kind == STORE) ((u16*)op.output)[at] = to_bf16(value);
        if (gated) ((u16*)op.output)[at] = to_bf16(activate(value, a.gelu) * sums[(e + 2) % 4] * root);
        if (op.kind == STORE_FLOAT) ((float*)op.output)[at] = value;
        if (op.kind == ADD) {
            value += stream[e];
            op.stream[at] = value;
            ((u16*)op.output)[at] = to_bf16(value * op.gain[output]);
            square[e % 2] += value * value;
        }
    }
    if (op.kind != ADD) return;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
        square[c] += __shfl_xor_sync(0xffffffff, square[c], 4);
        square[c] += __shfl_xor_sync(0xffffffff, square[c], 8);
        square[c] += __shfl_xor_sync(0xffffffff, square[c], 16);
        if (lane < 4) m.squares[warp * ROWS + 8 * j + 2 * lane + c] = square[c];
    }
    sync_threads(1, CONSUMERS);
    const int row = 8 * j + thread;
    if (thread < 8 && row < a.rows) {
        float sum = 0.f;
#pragma unroll
        for (int w = 0; w < 4; ++w) sum += m.squares[w * ROWS + row];
        op.squares_out[tile * a.rows + row] = sum;
    }
}

// The tiles of a linear op.
__device__ __forceinline__ void compute(const Arguments& a, int number, Memory& m, u32 stages, u32 full, u32 empty, u32 rank, Turn& turn, Exchange& exchange, int& scaled) {
    const Op& op = a.ops[number];
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    Share share(op, rank);
    if (share.tile >= share.tiles) return;
    const bool finishes = GROUPS_OF_ROWS > 1 || rank == 0;
    const int j = GROUPS_OF_ROWS > 1 ? rank : 0;
    bool rooted = !op.squares;
    for (; share.tile < share.tiles; share.tile += share.stride) {
        float sums[SUMS], own[4], stream[4] = {};
        for (int step = 0; step < share.steps; ++step, turn.next()) {
            const u32 base = stages + turn.stage * STAGE_BYTES;
            barrier_wait(full + 8 * turn.stage, turn.round & 1);
            if (step == 0 && share.tile < share.stride && thread == 0) mark(a, number, 2);
            products_begin();
#pragma unroll
            for (int d = 0; d < DEPTH; ++d)
#pragma unroll
                for (int k = 0; k < 4; ++k)
                    multiply(sums, describe(base + d * 8192 + 32 * k), describe(base + WEIGHT_BYTES + d * ROWS * 128 + 32 * k), step || d || k);
            products_commit();
            if (step == 0 && op.kind == ADD && finishes) {  // the op before is done, so the stream can be read
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const int row = 8 * j + 2 * (lane % 4) + e % 2, output = 64 * share.tile + 16 * warp + lane / 4 + e / 2 * 8;
                    if (row < a.rows && output < op.outputs) stream[e] = __ldcg(op.stream + (u64)row * op.outputs + output);
                }
            }
            products_wait();
            if (lane == 0) barrier_arrive(empty + 8 * turn.stage);
        }
        if (thread == 0) mark(a, number, 3);
        exchange.join(m, sums, own, rank);
        if (thread == 0) mark(a, number, 4);
        if (!finishes) continue;
        if (!rooted) barrier_wait(shared_address(&m.rooted[scaled % 2]), scaled / 2 & 1);
        rooted = true;
        finish(a, op, m, share.tile, j, own, stream, m.roots[scaled % 2]);
        if (number + 1 < a.num_ops) count_done(a, number);
        if (thread == 0) mark(a, number, 5);
    }
    if (op.squares) ++scaled;
}

// The attention of one layer: this block's items.
__device__ __forceinline__ void attend(const Arguments& a, int number, attention::Shared& s, u8* tiles) {
    using namespace attention;
    attention::Arguments own = a.attend;
    const Op& op = a.ops[number];
    own.k_cache = op.k_cache, own.v_cache = op.v_cache, own.q_norm = op.q_norm, own.k_norm = op.k_norm, own.eps = op.eps;
    const Plan plan = *own.plan;
    bool waited = false;
    for (int item_number = blockIdx.x; item_number < plan.pairs * own.kv_heads; item_number += gridDim.x) {
        const Item item = Item::at(own, item_number);
        Walk walk = walk_to(own, item, shared_address(tiles), plan.chunk);
        if (!waited) {
            if (threadIdx.x == 0) wait_for_op(a, number - 1);
            sync_threads(1, CONSUMERS);
        }
        waited = true;
        if (threadIdx.x == 0) mark(a, number, 2);
        const Sums sums = walk_item(own, s, walk, item, plan.chunk);
        copies_wait<0>();
        if (threadIdx.x == 0) mark(a, number, 3);
        sync_threads(1, CONSUMERS);  // the tiles hold the joined sums now
        if (attention::finish(own, s, (float*)tiles, sums, item_number, item.sequence, item.head, item.context, plan.chunk)) count_done(a, number);
        if (threadIdx.x == 0) mark(a, number, 5);
        sync_threads(1, CONSUMERS);
    }
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(CONSUMERS + 96, 1) step(const __grid_constant__ Arguments a) {
    extern __shared__ u8 dynamic[];
    __shared__ Memory m;
    __shared__ __align__(16) attention::Shared s;
    u8* memory = dynamic + (1024 - shared_address(dynamic) % 1024) % 1024;
    u8* tiles = memory + STAGES * STAGE_BYTES;
    const u32 stages = shared_address(memory), full = shared_address(m.full), empty = shared_address(m.empty), rank = cluster_rank();
    let_next_kernel_start();
    if (threadIdx.x == CONSUMERS) {
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(full + 8 * i, 2);
            barrier_init(empty + 8 * i, CONSUMERS / 32);
        }
        for (int i = 0; i < 2; ++i) {
            barrier_init(shared_address(&m.rooted[i]), 1);
            barrier_init(shared_address(&m.given[i]), CONSUMERS / 32);
            barrier_init(shared_address(&m.taken[i]), CONSUMERS / 32);
        }
        barriers_are_visible();
    }
    cluster_arrive();
    cluster_wait();
    if (threadIdx.x >= CONSUMERS + 64) {
        wait_for_kernel_before();
        take_roots(a, m, rank);
    } else if (threadIdx.x >= CONSUMERS + 32) {
        wait_for_kernel_before();
        if (threadIdx.x == CONSUMERS + 32) request_inputs(a, stages, full, empty, rank);
        __syncwarp();
    } else if (threadIdx.x >= CONSUMERS) {
        if (threadIdx.x == CONSUMERS) request_weights(a, stages, full, empty, rank);
        __syncwarp();
    } else {
        wait_for_kernel_before();
        attention::clear_queries(s);
        Turn turn;
        Exchange exchange;
        int scaled = 0;
        for (int number = 0; number < a.num_ops; ++number) {
            if (a.ops[number].kind == ATTEND)
                attend(a, number, s, tiles);
            else
                compute(a, number, m, stages, full, empty, rank, turn, exchange, scaled);
        }
    }
    __syncwarp();
    cluster_arrive();  // nobody ends while the other block still writes to it
    cluster_wait();
}
