// Linear layers of few rows: Y[r, n] = sum_k X[r, k] W[n, k], at the speed at which W can be read. See skinny.py for the formulas.
//
// W is the left operand of the matrix unit, 64 outputs at a time, X the right one in room for ROWS rows, so one row is multiplied
// at the cost of ROWS. A cluster of CLUSTER blocks has a tile of outputs; each block takes its share of the inputs, and the sums are joined
// through the cluster's shared memory in the order of the blocks, so results depend neither on timing nor on the other rows.
// One thread keeps STAGES tiles on their way into shared memory. Those of W do not depend on the kernel before, and all but the last are requested
// before that kernel has ended. Deep tiles pay: memory is fastest where a row is read hundreds of bytes at a time.
//
// A gated layer's tile has eight gate rows, their eight value rows, the next eight gate rows ..., so that a thread's sums hold both.
//
// Set by the compiler's command line: ROWS (8, 16, 32, 64, 96 or 128), BLOCKS (64-row blocks of a tile of W), DEPTH (64-input blocks
// of a tile), STAGES, CLUSTER, KIND (0 store bf16, 1 gated, 2 add to the stream, 3 store float32, 4 choose the largest), SCALED, BIASED, GELU,
// WHOLE (outputs are whole groups of eight).

#include "activation.cuh"

#define GROUPS (ROWS > 64 ? (BLOCKS > 1 ? BLOCKS : 2) : 1)  // warpgroups: each has a block of a tile's outputs, or half of the rows of the only one
#define OWN_ROWS (GROUPS > BLOCKS ? ROWS / 2 : ROWS)
#define CONSUMERS (128 * GROUPS)          // threads that compute; one more warp requests, and some take the roots
#define ROOTERS (ROWS > 64 ? 96 : ROWS > 32 ? ROWS : 32)
#define SUMS (OWN_ROWS / 2)               // float32 sums of a thread
#define WEIGHT_BYTES (BLOCKS * DEPTH * 64 * 128)
#define STAGE_BYTES (WEIGHT_BYTES + DEPTH * ROWS * 128)
#define HELD (ROWS > 64 ? 2 : 1)          // stages whose weights come behind the first inputs, which would else wait for all weights on their way
#define AHEAD (STAGES > HELD ? STAGES - HELD : 1)  // stages whose weights are asked for before the kernel before has ended
#define TILE_OUTPUTS ((KIND == 1 ? 32 : 64) * BLOCKS)
// A warpgroup finishes CHUNK rows of its outputs at a time. Each thread has PART sums of them, and OUTPUTS results of one row once they went through
// shared memory: in the order of the matrix unit they would be written to sixteen rows at once. Rows of PITCH floats let no two of a warp's sums meet in a bank.
#define CHUNK (OWN_ROWS % 16 || CLUSTER > 2 ? 8 : 16)
#define CHUNKS (OWN_ROWS / CHUNK)
#define PART (CHUNK / 2)
#define PITCH 68
#define LANES (128 / CHUNK)               // threads of a row
#define OUTPUTS (KIND == 1 ? PART / 2 : PART)
#define VECTOR (OUTPUTS < 4 ? OUTPUTS : 4)  // of a thread's results are neighbours; the next ones lie SPACING on
#define SPACING (4 * LANES)
#define OWN_CHUNKS ((CHUNKS + CLUSTER - 1) / CLUSTER)  // that one block of a cluster finishes, at the most
#define EXCHANGED (CLUSTER > 1 ? (CLUSTER - 1) * OWN_CHUNKS * PART / 4 * CONSUMERS : 1)  // float4 that it gets for them
#define STREAMED (KIND == 2 ? (OWN_CHUNKS * PART <= 32 ? OWN_CHUNKS : 32 / PART) : 1)  // chunks whose part of the stream a thread reads at a time
#define EARLY (STREAMED == OWN_CHUNKS)    // all of it before the sums are there

struct Arguments {
    const float* squares;  // [parts, rows]: sums of squares of the rows of X before their gain (SCALED)
    const u16* bias;       // [outputs] (BIASED)
    void* output;          // [rows, outputs]: bf16 or float32; for KIND 2 the gained stream, bf16; for KIND 4 keys [rows], zero before (hopper.cuh, choice_key)
    float* stream;         // [rows, outputs] (KIND 2), in place
    const float* gain;     // [outputs] (KIND 2)
    float* squares_out;    // [tiles * BLOCKS, rows] (KIND 2)
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

// Weights of the first stages: they depend neither on the kernel before nor on the other blocks of the cluster.
__device__ __forceinline__ void request_ahead(const TensorMap& weight, const Share& share, u32 stages, u32 arriving, u32 full) {
    const u64 once = policy_evict_first();
    const u32 count = share.tiles * share.steps, ahead = count < AHEAD ? count : AHEAD;
    for (u32 i = 0; i < ahead; ++i) {
        barrier_expect(full + 8 * i, arriving);
        request_weights(weight, share, i, stages + i * STAGE_BYTES, full + 8 * i, once);
    }
}

__device__ __forceinline__ void request_rest(const TensorMap& weight, const TensorMap& input, const Share& share, u32 stages, u32 arriving, u32 full, u32 empty) {
    const u64 once = policy_evict_first(), often = policy_evict_last();
    const u32 count = share.tiles * share.steps, ahead = count < AHEAD ? count : AHEAD;
    wait_for_kernel_before();
    for (u32 i = 0; i < ahead; ++i) request_inputs(input, share, i, stages + i * STAGE_BYTES, full + 8 * i, often);
    for (u32 i = ahead; i < count; ++i) {
        const u32 stage = i % STAGES;
        if (i >= STAGES) barrier_wait(empty + 8 * stage, (i / STAGES - 1) & 1);
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

// The first of a warpgroup's rows.
__device__ __forceinline__ int first_row() { return OWN_ROWS < ROWS ? threadIdx.x / 128 * OWN_ROWS : 0; }

// The block of a tile's outputs that a warpgroup has.
__device__ __forceinline__ int own_block() { return OWN_ROWS < ROWS ? 0 : threadIdx.x / 128; }

// Where a thread's results of a chunk belong: VECTOR neighbours from `output` on, and from each SPACING further.
struct Place {
    int row, output;
    u32 at;  // the first of them in a matrix of `outputs` columns, which has few rows
    bool live;
};

__device__ __forceinline__ Place place_of(const Arguments& a, u32 tile, int chunk) {
    const int thread = threadIdx.x % 128;
    Place place;
    place.row = first_row() + CHUNK * chunk + thread / LANES;
    place.output = tile * TILE_OUTPUTS + (KIND == 1 ? 32 : 64) * own_block() + thread % LANES * VECTOR;
    place.at = place.row * a.outputs + place.output;
    place.live = place.row < a.rows;
    return place;
}

// How far a thread's c-th result lies behind its first.
__device__ __forceinline__ int behind(int c) { return c / VECTOR * SPACING + c % VECTOR; }

__device__ __forceinline__ bool is_inside(const Arguments& a, const Place& place, int c) { return place.live && place.output + behind(c) < a.outputs; }

template <int COUNT>
__device__ __forceinline__ void load_vector(float* values, const float* source) {
    if constexpr (COUNT == 4)
        *(float4*)values = __ldcg((const float4*)source);
    else
        *(float2*)values = __ldcg((const float2*)source);
}

// The stream's numbers that a thread's results are added to, of its chunks `first`, `first` + CLUSTER, ...: all requested before the first is used.
__device__ __forceinline__ void load_stream(const Arguments& a, u32 tile, int first, float (&stream)[STREAMED][OUTPUTS]) {
#pragma unroll
    for (int i = 0; i < STREAMED; ++i) {
        const Place place = place_of(a, tile, first + i * CLUSTER);
        const float* source = a.stream + place.at;
#pragma unroll
        for (int c = 0; c < OUTPUTS; c += WHOLE ? VECTOR : 1) {
            if (WHOLE && is_inside(a, place, c))
                load_vector<VECTOR>(stream[i] + c, source + behind(c));
            else
#pragma unroll
                for (int j = c; j < c + (WHOLE ? VECTOR : 1); ++j) stream[i][j] = is_inside(a, place, j) ? __ldcg(source + behind(j)) : 0.f;
        }
    }
}

// Send every block of the cluster the chunks that it finishes, and add what the others sent for this block's: rank after
// rank. A chunk belongs to rank chunk % CLUSTER. A cluster has one tile only, so this is done once.
__device__ __forceinline__ void join(float (&sums)[SUMS], float4* exchange, u32 given, u32 rank) {
    const int thread = threadIdx.x;
#pragma unroll
    for (int i = 0; i < SUMS / 4; ++i) {
        const int chunk = i / (PART / 4), owner = chunk % CLUSTER;
        if (owner == rank) continue;
        const int slot = ((rank - (rank > owner)) * OWN_CHUNKS + chunk / CLUSTER) * (PART / 4) + i % (PART / 4);
        const float4 own = make_float4(sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]);
        send_remote(shared_address(exchange + slot * CONSUMERS + thread), given, owner, own);
    }
    if (rank >= CHUNKS) return;  // it finishes nothing
    barrier_wait_cluster(given, 0);
#pragma unroll
    for (int i = 0; i < SUMS / 4; ++i) {
        const int chunk = i / (PART / 4);
        if (chunk % CLUSTER != rank) continue;
        float total[4] = {};
#pragma unroll
        for (int other = 0; other < CLUSTER; ++other) {
            const int slot = ((other - (other > rank)) * OWN_CHUNKS + chunk / CLUSTER) * (PART / 4) + i % (PART / 4);
            const float4 own = make_float4(sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]);
            const float4 part = other == rank ? own : exchange[slot * CONSUMERS + thread];
            total[0] += part.x, total[1] += part.y, total[2] += part.z, total[3] += part.w;
        }
        sums[4 * i] = total[0], sums[4 * i + 1] = total[1], sums[4 * i + 2] = total[2], sums[4 * i + 3] = total[3];
    }
}

// How many bytes the others send a block.
__device__ __forceinline__ u32 expected_bytes(u32 rank) {
    const int chunks = CHUNKS > (int)rank ? (CHUNKS - 1 - rank) / CLUSTER + 1 : 0;
    return (CLUSTER - 1) * chunks * (PART / 4) * CONSUMERS * 16;
}

// The largest of a thread's results so far, for each of its rows.
struct Best {
    u64 keys[KIND == 4 ? CHUNKS : 1];
};

__device__ __forceinline__ void keep_best(const Arguments& a, const Place& place, const float (&values)[OUTPUTS], u64& key) {
    float best = ranked(values[0]);
    int at = 0;
#pragma unroll
    for (int c = 1; c < OUTPUTS; ++c)
        if (is_inside(a, place, c) && ranked(values[c]) > best) best = ranked(values[c]), at = behind(c);
    if (is_inside(a, place, 0)) key = max(key, choice_key(best, place.output + at));
}

// A block's largest result of each row to those of the others. `chosen` [ROWS] was zero when the block began.
__device__ __forceinline__ void tell_best(const Arguments& a, Best& best, u64* chosen) {
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        const int row = first_row() + CHUNK * chunk + threadIdx.x % 128 / LANES;
        u64 key = best.keys[KIND == 4 ? chunk : 0];
#pragma unroll
        for (int offset = 1; offset < LANES; offset *= 2) key = max(key, __shfl_xor_sync(0xffffffff, key, offset));
        if (threadIdx.x % LANES == 0 && row < a.rows) atomicMax(chosen + row, key);
    }
    sync_threads(1, CONSUMERS);
    for (int row = threadIdx.x; row < a.rows; row += CONSUMERS)
        if (chosen[row]) atomicMax((u64*)a.output + row, chosen[row]);
}

// A warpgroup's sums of a chunk, by rows: a thread's results in `values`, and what gates them in `gates` of a gated layer.
__device__ __forceinline__ void transpose(float* staged, const float* sums, float (&values)[OUTPUTS], float (&gates)[OUTPUTS]) {
    const int thread = threadIdx.x % 128, lane = thread % 32, barrier = 2 + threadIdx.x / 128;
    float* target = staged + 2 * (lane % 4) * PITCH + thread / 32 * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < PART; ++i) target[(i / 4 * 8 + i % 2) * PITCH + i % 4 / 2 * 8] = sums[i];
    sync_threads(barrier, 128);
    const float* source = staged + thread / LANES * PITCH;
    if constexpr (KIND == 1) {
        const int result = thread % LANES * OUTPUTS, column = result / 8 * 16 + result % 8;  // eight gates, their eight values, ...
        if constexpr (OUTPUTS == 4) {
            *(float4*)gates = *(const float4*)(source + column);
            *(float4*)values = *(const float4*)(source + column + 8);
        } else {
            *(float2*)gates = *(const float2*)(source + column);
            *(float2*)values = *(const float2*)(source + column + 8);
        }
    } else {
#pragma unroll
        for (int c = 0; c < OUTPUTS; c += 4) *(float4*)(values + c) = *(const float4*)(source + thread % LANES * 4 + behind(c));
    }
    sync_threads(barrier, 128);
}

// Add the stream and leave the sum there; gives the sum times the norm's weights, and its squares' sum.
__device__ __forceinline__ float add_stream(const Arguments& a, const Place& place, float (&values)[OUTPUTS], const float (&stream)[OUTPUTS], const float (&gains)[OUTPUTS]) {
    float square = 0.f;
#pragma unroll
    for (int c = 0; c < OUTPUTS; ++c) {
        values[c] = is_inside(a, place, c) ? values[c] + stream[c] : 0.f;
        square += values[c] * values[c];
    }
#pragma unroll
    for (int c = 0; c < OUTPUTS; c += WHOLE ? VECTOR : 1) {
        float* target = a.stream + place.at + behind(c);
        if (!is_inside(a, place, c)) continue;
        if constexpr (WHOLE && VECTOR == 4)
            *(float4*)target = *(const float4*)(values + c);
        else
            *target = values[c];
    }
#pragma unroll
    for (int c = 0; c < OUTPUTS; ++c) values[c] *= gains[c];
    return square;
}

__device__ __forceinline__ void store_results(const Arguments& a, const Place& place, const float (&values)[OUTPUTS]) {
#pragma unroll
    for (int c = 0; c < OUTPUTS; c += WHOLE ? VECTOR : 1) {
        if (!is_inside(a, place, c)) continue;
        const u32 at = place.at + behind(c);
        if constexpr (KIND == 3 && WHOLE)
            *(float4*)((float*)a.output + at) = *(const float4*)(values + c);
        else if constexpr (KIND == 3)
            ((float*)a.output)[at] = values[c];
        else if constexpr (WHOLE && VECTOR == 4)
            *(uint2*)((u16*)a.output + at) = make_uint2(pack_bf16(values[c], values[c + 1]), pack_bf16(values[c + 2], values[c + 3]));
        else if constexpr (WHOLE)
            *(u32*)((u16*)a.output + at) = pack_bf16(values[c], values[c + 1]);
        else
            ((u16*)a.output)[at] = to_bf16(values[c]);
    }
}

// What every row's results of a thread are multiplied by, or have added.
struct Columns {
    float gains[OUTPUTS], biases[OUTPUTS];
};

__device__ __forceinline__ Columns load_columns(const Arguments& a, u32 tile) {
    Columns columns;
    const int output = place_of(a, tile, 0).output;
#pragma unroll
    for (int c = 0; c < OUTPUTS; ++c) {
        const bool inside = output + behind(c) < a.outputs;
        columns.gains[c] = KIND == 2 && inside ? __ldg(a.gain + output + behind(c)) : 0.f;
        columns.biases[c] = BIASED && inside ? from_bf16(a.bias[output + behind(c)]) : 0.f;
    }
    return columns;
}

// What becomes of the sums of a tile, for the chunks of rows that are this block's.
__device__ __forceinline__ void finish(const Arguments& a, u32 tile, float (&sums)[SUMS], float (&stream)[STREAMED][OUTPUTS], const Columns& columns, const float* roots, float* staged, Best& best, u32 rank) {
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        if (CLUSTER > 1 && chunk % CLUSTER != rank) continue;
        const int number = chunk / CLUSTER;
        const Place place = place_of(a, tile, chunk);
        if (KIND == 2 && !EARLY && number % STREAMED == 0) load_stream(a, tile, chunk, stream);
        float values[OUTPUTS], gates[OUTPUTS];
        transpose(staged + threadIdx.x / 128 * (CHUNK * PITCH), sums + PART * chunk, values, gates);
        const float root = SCALED ? roots[place.row] : 1.f;
#pragma unroll
        for (int c = 0; c < OUTPUTS; ++c) {
            values[c] *= root;
            if (BIASED) values[c] += columns.biases[c];
            if (KIND == 1) gates[c] *= root;
        }
        if (KIND == 1) {
#pragma unroll
            for (int c = 0; c < OUTPUTS; c += 2) activate(gates[c], gates[c + 1], values[c], values[c + 1]);
#pragma unroll
            for (int c = 0; c < OUTPUTS; ++c) values[c] = gates[c];
        }
        if (KIND == 2) {
            float square = add_stream(a, place, values, stream[number % STREAMED], columns.gains);
#pragma unroll
            for (int offset = 1; offset < LANES; offset *= 2) square += __shfl_xor_sync(0xffffffff, square, offset);
            if (threadIdx.x % LANES == 0 && place.live) a.squares_out[(tile * BLOCKS + own_block()) * a.rows + place.row] = square;
        }
        if (KIND == 4)
            keep_best(a, place, values, best.keys[KIND == 4 ? chunk : 0]);
        else
            store_results(a, place, values);
    }
}

__device__ __forceinline__ void consume(const Arguments& a, const Share& share, u32 stages, u32 full, u32 empty, u32 ready, u32 given, float4* exchange, const float* roots, float* staged, u64* chosen) {
    const int thread = threadIdx.x;
    const u32 rank = CLUSTER > 1 ? cluster_rank() : 0;
    float sums[SUMS], stream[STREAMED][OUTPUTS];
    Best best = {};
    u32 turn = 0;
    for (u32 done = 0; done < share.tiles; ++done) {
        const u32 tile = share.first_tile + done * share.stride;
        const Columns columns = load_columns(a, tile);
        if (KIND == 2 && EARLY) load_stream(a, tile, rank, stream);
        for (u32 step = 0; step < share.steps; ++step, ++turn) {
            const u32 stage = turn % STAGES, base = stages + stage * STAGE_BYTES;
            barrier_wait(full + 8 * stage, (turn / STAGES) & 1);
            products_begin();
#pragma unroll
            for (int d = 0; d < DEPTH; ++d)
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    const u64 x = describe(base + WEIGHT_BYTES + (d * ROWS + first_row()) * 128 + 32 * k);
                    multiply(sums, describe(base + (d * BLOCKS + thread / 128 % BLOCKS) * 8192 + 32 * k), x, step || d || k);
                }
            products_commit();
            products_wait_but_last();  // the matrix unit goes on while the stage before is given back
            if (step && thread % 32 == 0) barrier_arrive(empty + 8 * ((turn - 1) % STAGES));
        }
        products_wait();
        if (thread % 32 == 0) barrier_arrive(empty + 8 * ((turn - 1) % STAGES));
        if (CLUSTER > 1) join(sums, exchange, given, rank);
        if (SCALED && done == 0) barrier_wait(ready, 0);
        finish(a, tile, sums, stream, columns, roots, staged, best, rank);
    }
    if (KIND == 4) tell_best(a, best, chosen);
}

extern "C" __global__ void __launch_bounds__(CONSUMERS + 32 + ROOTERS, 1)
    skinny(const __grid_constant__ TensorMap weight, const __grid_constant__ TensorMap input, const __grid_constant__ Arguments a) {
    extern __shared__ u8 shared[];
    __shared__ float roots[ROWS];
    __shared__ __align__(16) float staged[GROUPS * CHUNK * PITCH];
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
    if (threadIdx.x == CONSUMERS) request_ahead(weight, share, shared_address(memory), arriving, full);
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
    consume(a, share, shared_address(memory), full, empty, ready, given, exchange, roots, staged, chosen);
}
