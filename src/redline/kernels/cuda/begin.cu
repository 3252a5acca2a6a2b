// What a decode step begins with: the embedded rows as stream and as first input (see skinny.py), and the order in which attention
// walks the keys of all sequences (see below). One block a row, and one more for the order. D is the model's size, a multiple
// of 8.
//
// The keys of a sequence are cut into chunks of one length, a multiple of 64. A longer chunk means fewer sums to join, a shorter one
// blocks that end together; the length is the one with the shortest estimated time among THREADS candidates. Whole chunks come
// first, the remainders after them, so that a block that is done early finds something small.

#include "scan.cuh"

#define THREADS 256
#define AT_ONCE 2       // eights of numbers of a row that a thread asks for together
#define SPLIT_COST 96   // what a chunk costs beside its keys, in keys
#define JOIN_COST 160   // what it costs once that sums must be joined, in keys
#define LEAST_CHUNK 256

struct Plan {
    int pairs, chunk;  // (sequence, chunk) pairs, and the chunk's length
};

struct Arguments {
    const long long* tokens;   // [rows]
    const u16* embedding;      // [vocabulary, D]
    const float* gain;         // [D]
    float* stream;             // [rows, D]
    u16* gained;               // [rows, D]
    float* squares;            // [1, rows]
    const int* context;        // [rows]: keys of each row's sequence, the new one included; 0 for none
    Plan* plan;
    int2* pairs;               // (sequence, first key)
    int* whole_first;          // [rows]: where the whole chunks of a sequence begin among the pairs
    int* remainder;            // [rows]: where its last, shorter chunk stands
    int rows, size, vocabulary, heads, slots, capacity;  // key-value heads; blocks of the attention kernel; most pairs there is room for
    float scale;               // of the embedding
};

__device__ __forceinline__ float estimate(const Arguments& a, int chunk) {
    u32 whole = 0, remainders = 0;
    int longest = 0;  // item
    float keys = 0.f;
    bool split = false;
    for (int row = 0; row < a.rows; ++row) {
        const int context = a.context[row];
        whole += context / chunk, remainders += context % chunk != 0;
        keys += context;
        split |= context > chunk;
        longest = max(longest, min(context, chunk));
    }
    if (whole + remainders > a.capacity) return 1e30f;  // never for the longest chunk: one pair a sequence
    whole *= a.heads, remainders *= a.heads;
    const u32 rounds = (whole + a.slots - 1) / a.slots;
    const float even = (keys * a.heads + (float)SPLIT_COST * (whole + remainders)) / a.slots;
    const float stepped = fmaxf(rounds * (float)(chunk + SPLIT_COST), (float)(longest + SPLIT_COST));
    return fmaxf(even, stepped) + (split ? JOIN_COST : 0);
}

__device__ void order(const Arguments& a) {
    __shared__ float times[THREADS];
    __shared__ int longest, chosen;
    if (threadIdx.x == 0) longest = 1;
    __syncthreads();
    for (int row = threadIdx.x; row < a.rows; row += THREADS) atomicMax(&longest, a.context[row]);
    __syncthreads();
    int chunk = ((long long)longest * (threadIdx.x + 1) / THREADS + 63) / 64 * 64;
    chunk = chunk < LEAST_CHUNK ? LEAST_CHUNK : chunk;
    times[threadIdx.x] = estimate(a, chunk);
    __syncthreads();
    if (threadIdx.x < 32) {  // the first of the shortest
        int best = threadIdx.x;
        for (int i = threadIdx.x + 32; i < THREADS; i += 32)
            if (times[i] < times[best]) best = i;
#pragma unroll
        for (int offset = 16; offset; offset >>= 1) {
            const int other = __shfl_xor_sync(0xffffffff, best, offset);
            if (times[other] < times[best] || (times[other] == times[best] && other < best)) best = other;
        }
        chosen = best;
    }
    __syncthreads();
    if (threadIdx.x == chosen) longest = chunk;
    __syncthreads();
    chunk = longest;
    int wholes = 0;
    for (int first = 0; first < a.rows; first += THREADS) {
        const int row = first + threadIdx.x, context = row < a.rows ? a.context[row] : 0;
        int total;
        const int mine = wholes + sum_before<THREADS>(context / chunk, total);
        if (row < a.rows) a.whole_first[row] = mine;
        for (int i = 0; i < context / chunk; ++i) a.pairs[mine + i] = make_int2(row, i * chunk);
        wholes += total;
    }
    int remainders = wholes;
    for (int first = 0; first < a.rows; first += THREADS) {
        const int row = first + threadIdx.x, context = row < a.rows ? a.context[row] : 0;
        int total;
        const int mine = remainders + sum_before<THREADS>(context % chunk != 0, total);
        if (row < a.rows) a.remainder[row] = mine;
        if (context % chunk) a.pairs[mine] = make_int2(row, context / chunk * chunk);
        remainders += total;
    }
    if (threadIdx.x == 0) *a.plan = {remainders, chunk};
}

// Eight numbers of a row into the stream at `place`, and into the first layer's input; their sum of squares.
__device__ __forceinline__ float embed(const Arguments& a, uint4 numbers, const float4 (&gains)[2], u64 place) {
    const u32 pairs[4] = {numbers.x, numbers.y, numbers.z, numbers.w};
    float values[8], square = 0.f;
    u32 gained[4];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        values[i] = from_bf16((u16)(pairs[i / 2] >> (i % 2 * 16)));
        if (a.scale != 1.f) values[i] = from_bf16(to_bf16(values[i] * a.scale));
        square += values[i] * values[i];
    }
    const float own[8] = {gains[0].x, gains[0].y, gains[0].z, gains[0].w, gains[1].x, gains[1].y, gains[1].z, gains[1].w};
#pragma unroll
    for (int i = 0; i < 4; ++i) gained[i] = pack_bf16(values[2 * i] * own[2 * i], values[2 * i + 1] * own[2 * i + 1]);
    *(float4*)(a.stream + place) = make_float4(values[0], values[1], values[2], values[3]);
    *(float4*)(a.stream + place + 4) = make_float4(values[4], values[5], values[6], values[7]);
    *(uint4*)(a.gained + place) = make_uint4(gained[0], gained[1], gained[2], gained[3]);
    return square;
}

extern "C" __global__ void __launch_bounds__(THREADS) begin(const __grid_constant__ Arguments a) {
    __shared__ float parts[THREADS / 32];
    let_next_kernel_start();
    wait_for_kernel_before();
    const int row = blockIdx.x;
    if (row == a.rows) return order(a);
    const long long token = a.tokens[row];
    const bool known = token >= 0 && token < a.vocabulary;  // a padding row may hold anything
    const u16* embedded = a.embedding + (known ? token : 0) * a.size;
    float square = 0.f;
    for (int first = 8 * threadIdx.x; first < a.size; first += AT_ONCE * 8 * THREADS) {
        uint4 numbers[AT_ONCE];
        float4 gains[AT_ONCE][2];
#pragma unroll
        for (int n = 0; n < AT_ONCE; ++n) {  // all on their way before the first is used
            const int i = first + n * 8 * THREADS;
            if (i >= a.size) continue;
            numbers[n] = *(const uint4*)(embedded + i);
            gains[n][0] = *(const float4*)(a.gain + i), gains[n][1] = *(const float4*)(a.gain + i + 4);
        }
#pragma unroll
        for (int n = 0; n < AT_ONCE; ++n) {
            const int i = first + n * 8 * THREADS;
            if (i < a.size) square += embed(a, numbers[n], gains[n], (u64)row * a.size + i);
        }
    }
    square = warp_sum(square);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = square;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < THREADS / 32; ++w) parts[0] += parts[w];
        a.squares[row] = parts[0];
    }
}
