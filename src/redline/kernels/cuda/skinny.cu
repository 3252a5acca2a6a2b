// Linear layers of few rows: Y[r, n] = sum_k X[r, k] W[n, k], at the speed at which W can be read. See skinny.py for the formulas.
//
// W is the left operand of the matrix unit, 64 outputs at a time, X the right one in room for ROWS rows, so one row is multiplied
// at the cost of ROWS. A cluster of CLUSTER blocks has a tile of outputs; each block takes its share of the inputs, and the sums are joined
// through the cluster's shared memory in the order of the blocks, so results depend neither on timing nor on the other rows.
// One thread keeps STAGES tiles on their way into shared memory. Those of W do not depend on the kernel before and are requested
// before that kernel has ended. Deep tiles pay: memory is fastest where a row is read hundreds of bytes at a time.
//
// A gated layer's tile has eight gate rows, their eight value rows, the next eight gate rows ..., so that a thread's sums hold both.
//
// Set by the compiler's command line: ROWS (8, 16, 32, 64, 96 or 128), BLOCKS (64-row blocks of a tile of W), DEPTH (64-input blocks
// of a tile), STAGES, CLUSTER, KIND (0 store bf16, 1 gated, 2 add to the stream, 3 store float32, 4 choose the largest), SCALED, BIASED, GELU.

#define GROUPS (ROWS > 64 ? (BLOCKS > 1 ? BLOCKS : 2) : 1)  // warpgroups: each has a block of a tile's outputs, or half of the rows of the only one
#define OWN_BLOCKS (GROUPS > 1 ? 1 : BLOCKS)
#define OWN_ROWS (GROUPS > 1 && BLOCKS == 1 ? ROWS / 2 : ROWS)
#define CONSUMERS (128 * GROUPS)          // threads that compute; one more warp requests, and some take the roots
#define ROOTERS (ROWS > 64 ? 96 : ROWS > 32 ? ROWS : 32)
#define SUMS (OWN_BLOCKS * OWN_ROWS / 2)      // float32 sums of a thread
#define WEIGHT_BYTES (BLOCKS * DEPTH * 64 * 128)
#define STAGE_BYTES (WEIGHT_BYTES + DEPTH * ROWS * 128)
#define OWN_GROUPS ((OWN_ROWS / 8 + CLUSTER - 1) / CLUSTER)  // groups of eight rows that one block of a cluster finishes, at the most
#define EXCHANGED (CLUSTER > 1 ? (CLUSTER - 1) * OWN_BLOCKS * OWN_GROUPS * CONSUMERS : 1)  // float4 that it gets for them
#define TILE_OUTPUTS ((KIND == 1 ? 32 : 64) * BLOCKS)
#define SQUARING_WARPS (OWN_ROWS < ROWS ? 4 : CONSUMERS / 32)
#define EARLY (SUMS <= 32)                // the stream is read before the sums are there
#define CHOICES (KIND == 4 ? OWN_ROWS / 4 : 1)  // rows of a thread whose largest result is kept

struct Arguments {
    const float* squares;  // [parts, rows]: sums of squares of the rows of X before their gain (SCALED)
    const u16* bias;       // [outputs] (BIASED)
    void* output;          // [rows, outputs]: bf16 or float32; for KIND 2 the gained stream, bf16; for KIND 4 keys [rows], zero before (hopper.cuh, choice_key)
    float* stream;         // [rows, outputs] (KIND 2), in place
    const float* gain;     // [outputs] (KIND 2)
    float* squares_out;    // [tiles, rows] (KIND 2)
    int rows, outputs, inputs, parts;
    float inverse_size, eps;
    int late;  // 1: the next kernel may not start before the kernel before this one has ended
};

// What one block does: steps [first_step, first_step + steps) of the tiles `first_tile`, `first_tile` + `stride`, ...
struct Share {
    u32 first_tile, tiles, stride, first_step, steps;
};

__device__ __forceinline__ Share own_share(const Arguments& a) {
    const u32 all = (a.inputs + 64 * DEPTH - 1) / (64 * DEPTH), rank = CLUSTER > 1 ? cluster_rank() : 0;
    Share share;
    share.first_tile = blockIdx.x / CLUSTER;
    share.stride = gridDim.x / CLUSTER;
    const u32 tiles = (a.outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS;
    share.tiles = tiles > share.first_tile ? (tiles - share.first_tile - 1) / share.stride + 1 : 0;
    share.first_step = rank * all / CLUSTER;
    share.steps = (rank + 1) * all / CLUSTER - share.first_step;
    return share;
}

// The place of the `turn`-th tile that a block asks for.
__device__ __forceinline__ void locate(const Share& share, u32 turn, u32& row, u32& column) {
    row = (share.first_tile + turn / share.steps * share.stride) * TILE_OUTPUTS;
    column = (share.first_step + turn % share.steps) * 64 * DEPTH;
}

__device__ __forceinline__ void request_weights(const TensorMap& map, const Share& share, u32 turn, u32 target, u32 full, u64 policy) {
    u32 row, column;
    locate(share, turn, row, column);
#pragma unroll
    for (int d = 0; d < DEPTH; ++d)
#pragma unroll
        for (int b = 0; b < BLOCKS; ++b) {
            const u32 box = target + (d * BLOCKS + b) * 8192;
            if (KIND == 1)
                copy_box_4d(box, map, column + 64 * d, 0, 0, (row + 32 * b) / 8, full, policy);
            else
                copy_box(box, map, column + 64 * d, row + 64 * b, full, policy);
        }
}

__device__ __forceinline__ void request_inputs(const TensorMap& map, const Share& share, u32 turn, u32 target, u32 full, u64 policy) {
    u32 row, column;
    locate(share, turn, row, column);
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) copy_box(target + WEIGHT_BYTES + d * ROWS * 128, map, column + 64 * d, 0, full, policy);
}

// Weights first: they depend neither on the kernel before nor on the other blocks of the cluster.
__device__ __forceinline__ void request_first(const TensorMap& weight, const Share& share, u32 stages, u32 arriving, u32 full) {
    const u64 once = policy_evict_first();
    const u32 count = share.tiles * share.steps, filled = count < STAGES ? count : STAGES;
    for (u32 i = 0; i < filled; ++i) {
        barrier_expect(full + 8 * i, arriving);
        request_weights(weight, share, i, stages + i * STAGE_BYTES, full + 8 * i, once);
    }
}

__device__ __forceinline__ void request_rest(const TensorMap& weight, const TensorMap& input, const Share& share, u32 stages, u32 arriving, u32 full, u32 empty) {
    const u64 once = policy_evict_first(), often = policy_evict_last();
    const u32 count = share.tiles * share.steps, filled = count < STAGES ? count : STAGES;
    wait_for_kernel_before();
    for (u32 i = 0; i < filled; ++i) request_inputs(input, share, i, stages + i * STAGE_BYTES, full + 8 * i, often);
    for (u32 i = filled; i < count; ++i) {
        const u32 stage = i % STAGES;
        barrier_wait(empty + 8 * stage, (i / STAGES - 1) & 1);
        barrier_expect(full + 8 * stage, arriving);
        request_weights(weight, share, i, stages + stage * STAGE_BYTES, full + 8 * stage, once);
        request_inputs(input, share, i, stages + stage * STAGE_BYTES, full + 8 * stage, often);
    }
}

// The root of each row's mean square, into shared memory, its parts summed in a fixed order.
__device__ __forceinline__ void take_roots(const Arguments& a, float* roots, u32 ready, int thread) {
    wait_for_kernel_before();
    if (ROWS <= 16) {
        float sums[ROWS] = {};
        for (int part = thread; part < a.parts; part += 32)
#pragma unroll
            for (int row = 0; row < ROWS; ++row)
                if (row < a.rows) sums[row] += __ldcg(a.squares + part * a.rows + row);
#pragma unroll
        for (int row = 0; row < ROWS; ++row) {
            const float sum = warp_sum(sums[row]);
            if (thread == 0) roots[row] = rsqrtf(sum * a.inverse_size + a.eps);
        }
    } else {
        for (int row = thread; row < a.rows; row += ROOTERS) {
            float sum = 0.f;
#pragma unroll 16
            for (int part = 0; part < a.parts; ++part) sum += __ldcg(a.squares + part * a.rows + row);
            roots[row] = rsqrtf(sum * a.inverse_size + a.eps);
        }
    }
    barrier_arrive(ready);
}

__device__ __forceinline__ float activate(float gate) {
    if (GELU) {  // (1 + tanh(x)) / 2 = 1 / (1 + exp(-2 x))
        const float inner = 1.5957691216057308f * (gate + 0.044715f * gate * gate * gate);
        return __fdividef(gate, 1.f + __expf(-inner));
    }
    return __fdividef(gate, 1.f + __expf(-gate));
}

// The first of a warpgroup's rows.
__device__ __forceinline__ int first_row() { return OWN_ROWS < ROWS ? threadIdx.x / 128 * OWN_ROWS : 0; }

struct Place {
    int row, output;
    bool live;
};

// Which result a thread's sum is: block `b` of its outputs, group `j` of eight rows, element `e` of four.
__device__ __forceinline__ Place place_of(const Arguments& a, u32 tile, int b, int j, int e) {
    const int thread = threadIdx.x, lane = thread % 32, group = thread / 128;
    if (OWN_BLOCKS < BLOCKS) b += group;
    Place place;
    place.row = first_row() + 8 * j + 2 * (lane % 4) + e % 2;
    // Of a gated tile's 16 rows a warp has eight gates and their eight values.
    place.output = tile * TILE_OUTPUTS + (KIND == 1 ? 32 * b + 8 * (thread / 32 % 4) + lane / 4 : 64 * b + 16 * (thread / 32 % 4) + lane / 4 + e / 2 * 8);
    place.live = place.row < a.rows && place.output < a.outputs;
    return place;
}

// The stream's numbers that this thread's sums are added to, all requested before the first is used.
__device__ __forceinline__ void load_stream(const Arguments& a, u32 tile, float (&stream)[SUMS]) {
#pragma unroll
    for (int i = 0; i < SUMS; ++i) {
        const Place place = place_of(a, tile, i / (OWN_ROWS / 2), i / 4 % (OWN_ROWS / 8), i % 4);
        stream[i] = place.live ? __ldcg(a.stream + (u64)place.row * a.outputs + place.output) : 0.f;
    }
}

// Send every block of the cluster the groups of rows that it finishes, and add what the others sent for this block's: rank after
// rank. Group j belongs to rank j % CLUSTER. A cluster has one tile only, so this is done once.
__device__ __forceinline__ void join(float (&sums)[SUMS], float4* exchange, u32 given, u32 rank) {
    const int thread = threadIdx.x;
#pragma unroll
    for (int i = 0; i < SUMS / 4; ++i) {
        const int j = i % (OWN_ROWS / 8), b = i / (OWN_ROWS / 8), owner = j % CLUSTER;
        if (owner == rank) continue;
        const int slot = ((rank - (rank > owner)) * OWN_BLOCKS + b) * OWN_GROUPS + j / CLUSTER;
        const float4 own = make_float4(sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]);
        send_remote(shared_address(exchange + slot * CONSUMERS + thread), given, owner, own);
    }
    if (rank >= OWN_ROWS / 8) return;  // it finishes nothing
    barrier_wait_cluster(given, 0);
#pragma unroll
    for (int i = 0; i < SUMS / 4; ++i) {
        const int j = i % (OWN_ROWS / 8), b = i / (OWN_ROWS / 8);
        if (j % CLUSTER != rank) continue;
        float total[4] = {};
#pragma unroll
        for (int other = 0; other < CLUSTER; ++other) {
            const int slot = ((other - (other > rank)) * OWN_BLOCKS + b) * OWN_GROUPS + j / CLUSTER;
            const float4 own = make_float4(sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]);
            const float4 part = other == rank ? own : exchange[slot * CONSUMERS + thread];
            total[0] += part.x, total[1] += part.y, total[2] += part.z, total[3] += part.w;
        }
        sums[4 * i] = total[0], sums[4 * i + 1] = total[1], sums[4 * i + 2] = total[2], sums[4 * i + 3] = total[3];
    }
}

// How many bytes the others send a block.
__device__ __forceinline__ u32 expected_bytes(u32 rank) {
    const int groups = OWN_ROWS / 8 > (int)rank ? (OWN_ROWS / 8 - 1 - rank) / CLUSTER + 1 : 0;
    return (CLUSTER - 1) * OWN_BLOCKS * groups * CONSUMERS * 16;
}

// Eight rows' numbers of eight outputs, of which each lane has two rows of one output: two outputs of one row.
__device__ __forceinline__ u32 transposed(float first, float second) {
    u32 pair = pack_bf16(first, second);
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(pair));
    return pair;
}

__device__ __forceinline__ void store_pair(const Arguments& a, int row, int output, u32 pair) {
    u16* target = (u16*)a.output + (u64)row * a.outputs + output;
    if (a.outputs % 2 == 0) {
        if (output < a.outputs) *(u32*)target = pair;
    } else {
        if (output < a.outputs) target[0] = (u16)pair;
        if (output + 1 < a.outputs) target[1] = (u16)(pair >> 16);
    }
}

// The largest of a thread's results so far, for each of its rows.
struct Best {
    u64 keys[CHOICES];
};

// A block's largest result of each row to those of the others. `chosen` [ROWS] was zero when the block began.
__device__ __forceinline__ void tell_best(const Arguments& a, Best& best, u64* chosen) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < CHOICES; ++i) {
        const int row = first_row() + 8 * (i / 2) + 2 * (lane % 4) + i % 2;
        u64 key = best.keys[i];
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2) key = max(key, __shfl_xor_sync(0xffffffff, key, offset));
        if (lane < 4 && row < a.rows) atomicMax(chosen + row, key);
    }
    sync_threads(1, CONSUMERS);
    for (int row = threadIdx.x; row < a.rows; row += CONSUMERS)
        if (chosen[row]) atomicMax((u64*)a.output + row, chosen[row]);
}

// What becomes of the sums of a tile, for the groups of rows that are this block's.
__device__ __forceinline__ void finish(const Arguments& a, u32 tile, float (&sums)[SUMS], const float (&stream)[SUMS], const float* roots, float* squares, Best& best, u32 rank) {
    const int lane = threadIdx.x % 32, warp = OWN_ROWS < ROWS ? threadIdx.x / 32 % 4 : threadIdx.x / 32;
#pragma unroll
    for (int j = 0; j < OWN_ROWS / 8; ++j) {
        if (CLUSTER > 1 && j % CLUSTER != rank) continue;
        float square[2] = {};
#pragma unroll
        for (int b = 0; b < OWN_BLOCKS; ++b) {
            float results[4] = {};
#pragma unroll
            for (int e = 0; e < (KIND == 1 ? 2 : 4); ++e) {
                const Place place = place_of(a, tile, b, j, e);
                const int i = b * (OWN_ROWS / 2) + 4 * j + e;
                const u64 at = (u64)place.row * a.outputs + place.output;
                const float root = SCALED ? roots[place.row] : 1.f;
                float value = sums[i] * root;
                if (BIASED && place.live) value += from_bf16(a.bias[place.output]);
                if (KIND == 1) value = activate(value) * sums[(i + 2) % SUMS] * root;
                if (KIND == 3 && place.live) ((float*)a.output)[at] = value;
                if (KIND == 4 && place.live) best.keys[2 * j + e % 2] = max(best.keys[2 * j + e % 2], choice_key(value, place.output));
                if (KIND == 2 && place.live) {
                    value += stream[i];
                    a.stream[at] = value;
                    square[e % 2] += value * value;
                    value *= a.gain[place.output];
                }
                results[e] = value;
            }
            if (KIND >= 3) continue;
            const int row = first_row() + 8 * j + lane / 4;
            const int output = place_of(a, tile, b, j, 0).output - lane / 4 + 2 * (lane % 4);
#pragma unroll
            for (int half = 0; half < (KIND == 1 ? 1 : 2); ++half) {
                const u32 pair = transposed(results[2 * half], results[2 * half + 1]);
                if (row < a.rows) store_pair(a, row, output + 8 * half, pair);
            }
        }
        if (KIND == 2) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                square[c] += __shfl_xor_sync(0xffffffff, square[c], 4);
                square[c] += __shfl_xor_sync(0xffffffff, square[c], 8);
                square[c] += __shfl_xor_sync(0xffffffff, square[c], 16);
                if (lane < 4) squares[warp * ROWS + first_row() + 8 * j + 2 * lane + c] = square[c];
            }
        }
    }
    if (KIND == 2) {
        sync_threads(1, CONSUMERS);
        for (int row = threadIdx.x; row < a.rows; row += CONSUMERS) {
            if (CLUSTER > 1 && row % OWN_ROWS / 8 % CLUSTER != rank) continue;
            float sum = 0.f;
#pragma unroll
            for (int w = 0; w < SQUARING_WARPS; ++w) sum += squares[w * ROWS + row];
            a.squares_out[tile * a.rows + row] = sum;
        }
        sync_threads(1, CONSUMERS);
    }
}

__device__ __forceinline__ void consume(const Arguments& a, const Share& share, u32 stages, u32 full, u32 empty, u32 ready, u32 given, float4* exchange, const float* roots, float* squares, u64* chosen) {
    const int thread = threadIdx.x;
    const u32 rank = CLUSTER > 1 ? cluster_rank() : 0;
    float sums[SUMS], stream[SUMS];
    Best best = {};
    u32 turn = 0;
    for (u32 done = 0; done < share.tiles; ++done) {
        const u32 tile = share.first_tile + done * share.stride;
        if (KIND == 2 && EARLY) load_stream(a, tile, stream);
        for (u32 step = 0; step < share.steps; ++step, ++turn) {
            const u32 stage = turn % STAGES, base = stages + stage * STAGE_BYTES;
            barrier_wait(full + 8 * stage, (turn / STAGES) & 1);
            products_begin();
#pragma unroll
            for (int d = 0; d < DEPTH; ++d)
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    const u64 x = describe(base + WEIGHT_BYTES + (d * ROWS + first_row()) * 128 + 32 * k);
#pragma unroll
                    for (int b = 0; b < OWN_BLOCKS; ++b) {
                        const u32 block = OWN_BLOCKS < BLOCKS ? thread / 128 : b;
                        multiply(sums + b * (OWN_ROWS / 2), describe(base + (d * BLOCKS + block) * 8192 + 32 * k), x, step || d || k);
                    }
                }
            products_commit();
            products_wait_but_last();  // the matrix unit goes on while the stage before is given back
            if (step && thread % 32 == 0) barrier_arrive(empty + 8 * ((turn - 1) % STAGES));
        }
        products_wait();
        if (thread % 32 == 0) barrier_arrive(empty + 8 * ((turn - 1) % STAGES));
        if (CLUSTER > 1) join(sums, exchange, given, rank);
        if (KIND == 2 && !EARLY) load_stream(a, tile, stream);
        if (SCALED && done == 0) barrier_wait(ready, 0);
        finish(a, tile, sums, stream, roots, squares, best, rank);
    }
    if (KIND == 4) tell_best(a, best, chosen);
}

extern "C" __global__ void __launch_bounds__(CONSUMERS + 32 + ROOTERS, 1)
    skinny(const __grid_constant__ TensorMap weight, const __grid_constant__ TensorMap input, const __grid_constant__ Arguments a) {
    extern __shared__ u8 shared[];
    __shared__ float roots[ROWS], squares[SQUARING_WARPS * ROWS];
    __shared__ u64 barriers[2 * STAGES + 2];
    __shared__ float4 exchange[EXCHANGED];
    __shared__ u64 chosen[KIND == 4 ? ROWS : 1];
    u8* memory = shared + (1024 - shared_address(shared) % 1024) % 1024;
    const u32 full = shared_address(barriers), empty = full + 8 * STAGES, ready = empty + 8 * STAGES, given = ready + 8;
    if (!a.late) let_next_kernel_start();
    if (KIND == 4 && threadIdx.x < ROWS) chosen[threadIdx.x] = 0;
    if (threadIdx.x == CONSUMERS) {
        prefetch_map(weight);
        prefetch_map(input);
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, CONSUMERS / 32);
        }
        barrier_init(ready, ROOTERS);
        barrier_init(given, 1);
        barriers_are_visible();
        if (CLUSTER > 1) barrier_expect(given, expected_bytes(cluster_rank()));
    }
    __syncthreads();
    if (CLUSTER > 1) cluster_arrive();
    const Share share = own_share(a);
    // Of X only the rows that are there are copied: copies slow down many times where they reach past the end of a matrix. The others hold whatever was in
    // memory, and end in columns of the product that nobody reads.
    const u32 arriving = WEIGHT_BYTES + DEPTH * a.rows * 128;
    if (threadIdx.x == CONSUMERS) request_first(weight, share, shared_address(memory), arriving, full);
    __syncwarp();
    if (CLUSTER > 1) cluster_wait();  // nobody sends before the other blocks are there
    if (threadIdx.x >= CONSUMERS + 32) {
        if (SCALED) take_roots(a, roots, ready, threadIdx.x - CONSUMERS - 32);
        return;
    }
    if (threadIdx.x >= CONSUMERS) {
        if (threadIdx.x == CONSUMERS) request_rest(weight, input, share, shared_address(memory), arriving, full, empty);
        return;
    }
    wait_for_kernel_before();
    if (a.late) let_next_kernel_start();
    consume(a, share, shared_address(memory), full, empty, ready, given, exchange, roots, squares, chosen);
}
