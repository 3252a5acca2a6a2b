// Linear layers of one row, or of very few: what skinny.cu computes, with W in registers. See skinny.py for the formulas.
//
// A block has OUTPUTS rows of W, whole, and each thread the same columns of all of them: CHUNKS times eight, THREADS * 8 apart. A thread's
// weights are requested before the kernel before has ended, and wait in registers; the last HELD chunks come behind X, which would else wait for
// all weights on their way. Blocks are small and many: as those of the kernel before end one by one, those of this one take their places, so
// memory is seldom idle between kernels. Longer rows are taken in turns. A gated layer's block has OUTPUTS / 2 gate rows and their value rows.
// All but the first product of a layer (KIND 0) multiply by tensor cores: additions to the stream are done sooner, of which the one behind
// attention is waited for, and a step takes less power, by which it is bounded where it lasts (docs/log.md).
//
// Set by the compiler's command line: ROWS (1, 2 or 4), OUTPUTS (rows of W of a block, a power of two), CHUNKS, HELD, THREADS, TURNS (1, or 2 for any
// number), KIND (as in skinny.cu), SCALED, BIASED, GELU.

#define WARPS (THREADS / 32)
#define RESULTS (KIND == 1 ? OUTPUTS / 2 : OUTPUTS)  // of a block, for each row
#define TURN (THREADS * CHUNKS * 8)                  // columns of a turn
#define BY_TENSOR_CORES (KIND != 0)
#define SUMS (BY_TENSOR_CORES ? 2 * OUTPUTS : OUTPUTS)  // of a thread, for each row

struct Arguments {
    const u16* weight;     // [outputs, inputs]; [2 outputs, inputs] where gated
    const u16* x;          // [rows, inputs]
    const float* squares;  // as in skinny.cu
    const u16* bias;
    void* output;          // as in skinny.cu
    float* stream;
    const float* gain;
    float* squares_out;    // [blocks, rows] (KIND 2)
    int rows, outputs, inputs, parts;
    float inverse_size, eps;
    int late;
};

// Not as read-only data (.nc): the assembler moves such loads behind the wait for the kernel before. No policy for the level-2 cache
// either: it costs 2 % of a small model's step.
__device__ __forceinline__ uint4 load_once(const u16* source) {
    uint4 v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(source)
                 : "memory");
    return v;
}

__device__ __forceinline__ uint4 load_shared_row(const u16* source) {  // other blocks of this processor read it, too
    uint4 v;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(source) : "memory");
    return v;
}

__device__ __forceinline__ void unpack(float (&to)[8], uint4 v) {
    const u32 pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) to[2 * i] = __uint_as_float(pairs[i] << 16), to[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000);
}

// The row of W of a block's output `i`; none (-1) past the last.
__device__ __forceinline__ int weight_row(const Arguments& a, int i) {
    const int result = blockIdx.x * RESULTS + i % RESULTS;
    return result < a.outputs ? result + i / RESULTS * a.outputs : -1;
}

__device__ __forceinline__ int column_of(int turn, int chunk) { return turn * TURN + (chunk * THREADS + (int)threadIdx.x) * 8; }

__device__ __forceinline__ void request(const Arguments& a, int turn, uint4 (&weights)[OUTPUTS][CHUNKS], int first, int end) {
#pragma unroll
    for (int i = 0; i < OUTPUTS; ++i) {
        const int row = weight_row(a, i);
#pragma unroll
        for (int c = first; c < end; ++c) {
            const int column = column_of(turn, c);
            weights[i][c] = row >= 0 && column < a.inputs ? load_once(a.weight + (u64)row * a.inputs + column) : make_uint4(0, 0, 0, 0);
        }
    }
}

// Eight columns of two rows of W in every lane by those of a row of X. A warp's 256 columns are eight pieces of 32: those of W are the left
// operand's rows (0 to 7 of the first row, 8 to 15 of the second), those of X the right one's columns. Of 16 x 8 sums those of
// like pieces count, one in eight; the others are for nothing.
__device__ __forceinline__ void multiply_pair(float* sums, uint4 first, uint4 second, uint4 x) {
    const u32 left[2][4] = {{first.x, second.x, first.y, second.y}, {first.z, second.z, first.w, second.w}}, right[2][2] = {{x.x, x.y}, {x.z, x.w}};
#pragma unroll
    for (int k = 0; k < 2; ++k)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
            : "r"(left[k][0]), "r"(left[k][1]), "r"(left[k][2]), "r"(left[k][3]), "r"(right[k][0]), "r"(right[k][1]));
}

__device__ __forceinline__ void multiply_plainly(float* sums, const uint4 (&weights)[OUTPUTS][CHUNKS], int chunk, uint4 inputs) {
    float x[8];
    unpack(x, inputs);
#pragma unroll
    for (int i = 0; i < OUTPUTS; ++i) {
        float w[8];
        unpack(w, weights[i][chunk]);
#pragma unroll
        for (int e = 0; e < 8; ++e) sums[i] += x[e] * w[e];
    }
}

// The columns of a turn, of which the last HELD chunks of weights have not been asked for yet.
__device__ __forceinline__ void take(const Arguments& a, int turn, uint4 (&weights)[OUTPUTS][CHUNKS], float (&sums)[ROWS][SUMS]) {
    uint4 inputs[ROWS][CHUNKS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c) {
            const int column = column_of(turn, c);
            inputs[r][c] = r < a.rows && column < a.inputs ? load_shared_row(a.x + (u64)r * a.inputs + column) : make_uint4(0, 0, 0, 0);
        }
    request(a, turn, weights, CHUNKS - HELD, CHUNKS);
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
            if constexpr (BY_TENSOR_CORES) {
#pragma unroll
                for (int i = 0; i < OUTPUTS; i += 2) multiply_pair(sums[r] + 2 * i, weights[i][c], weights[i + 1][c], inputs[r][c]);
            } else {
                multiply_plainly(sums[r], weights, c, inputs[r][c]);
            }
}

// The sums over a warp's lanes of COUNT numbers (a power of two, 32 at the most): a lane gets that of number `which`. Lanes exchange halves
// of what they have, so there are not many more exchanges than numbers.
template <int COUNT, int OFFSET = 16>
__device__ __forceinline__ float sum_lanes(float* values, int& which) {
    if constexpr (OFFSET == 0) {
        which = 0;
        return values[0];
    } else if constexpr (COUNT == 1) {
        values[0] += __shfl_xor_sync(0xffffffff, values[0], OFFSET);
        return sum_lanes<1, OFFSET / 2>(values, which);
    } else {
        const bool upper = threadIdx.x & OFFSET;
#pragma unroll
        for (int i = 0; i < COUNT / 2; ++i) {
            const float given = upper ? values[i] : values[i + COUNT / 2], kept = upper ? values[i + COUNT / 2] : values[i];
            values[i] = kept + __shfl_xor_sync(0xffffffff, given, OFFSET);
        }
        const float sum = sum_lanes<COUNT / 2, OFFSET / 2>(values, which);
        which += upper ? COUNT / 2 : 0;
        return sum;
    }
}

// A warp's sums of its outputs.
__device__ __forceinline__ void add_lanes(const float* sums, float* target) {
    const int lane = threadIdx.x % 32;
    if constexpr (BY_TENSOR_CORES) {
        float own[OUTPUTS];  // lane 4 g + t has the sums of piece g of W with pieces 2 t and 2 t + 1 of X
        const bool even = lane / 4 == lane % 4 * 2, odd = lane / 4 == lane % 4 * 2 + 1;
#pragma unroll
        for (int i = 0; i < OUTPUTS; ++i) own[i] = even ? sums[i / 2 * 4 + i % 2 * 2] : odd ? sums[i / 2 * 4 + i % 2 * 2 + 1] : 0.f;
        int which;
        const float sum = sum_lanes<OUTPUTS>(own, which);
        if (lane % (32 / OUTPUTS) == 0) target[which] = sum;
    } else {
#pragma unroll
        for (int i = 0; i < OUTPUTS; ++i) {
            const float sum = warp_sum(sums[i]);
            if (lane == 0) target[i] = sum;
        }
    }
}

__device__ __forceinline__ float activate(float gate) {
    if (GELU) {  // (1 + tanh(x)) / 2 = 1 / (1 + exp(-2 x))
        const float inner = 1.5957691216057308f * (gate + 0.044715f * gate * gate * gate);
        return gate / (1.f + __expf(-inner));
    }
    return gate / (1.f + __expf(-gate));
}

// The sums of squares of the rows, in parts, on their way to the roots.
__device__ __forceinline__ void load_squares(const Arguments& a, float (&squares)[ROWS]) {
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        squares[r] = 0.f;
        if (r < a.rows)
#pragma unroll 4
            for (int part = threadIdx.x; part < a.parts; part += THREADS) squares[r] += a.squares[part * a.rows + r];
    }
}

struct Shared {
    float sums[WARPS][ROWS * OUTPUTS];
    float squares[WARPS][ROWS];
};

// One thread for each result of a row: `value` is its finished sum, `other` that of its value row where gated.
__device__ __forceinline__ void finish(const Arguments& a, float value, float other, float root, int row, int output, float stream) {
    const u64 at = (u64)row * a.outputs + output;
    value *= root;
    if (BIASED) value += from_bf16(a.bias[output]);
    if (KIND == 0) ((u16*)a.output)[at] = to_bf16(value);
    if (KIND == 1) ((u16*)a.output)[at] = to_bf16(activate(value) * other * root);
    if (KIND == 3) ((float*)a.output)[at] = value;
    if (KIND == 2) {
        a.stream[at] = value + stream;
        ((u16*)a.output)[at] = to_bf16((value + stream) * a.gain[output]);
    }
}

#if KIND == 2
#define BOUNDS __launch_bounds__(THREADS, 1)  // more registers: the fewer blocks wait beside attention, the sooner it has what it reads
#else
#define BOUNDS __launch_bounds__(THREADS)
#endif

extern "C" __global__ void BOUNDS one_row(const __grid_constant__ Arguments a) {
    __shared__ Shared s;
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    if (!a.late) let_next_kernel_start();
    uint4 weights[OUTPUTS][CHUNKS];
    request(a, 0, weights, 0, CHUNKS - HELD);
    wait_for_kernel_before();
    if (a.late) let_next_kernel_start();
    float sums[ROWS][SUMS] = {}, squares[ROWS];
    // A result's thread, and the number of the stream that it adds to.
    const int row = thread / RESULTS, result = blockIdx.x * RESULTS + thread % RESULTS;
    const bool is_finisher = thread < ROWS * RESULTS && row < a.rows && result < a.outputs;
    float stream = 0.f;
    if (KIND == 2 && is_finisher) stream = __ldcg(a.stream + (u64)row * a.outputs + result);
    if (SCALED) load_squares(a, squares);
    take(a, 0, weights, sums);
    for (int turn = 1; TURNS > 1 && turn * TURN < a.inputs; ++turn) {
        request(a, turn, weights, 0, CHUNKS - HELD);
        take(a, turn, weights, sums);
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        add_lanes(sums[r], s.sums[warp] + r * OUTPUTS);
        if (SCALED) {
            const float square = warp_sum(squares[r]);
            if (lane == 0) s.squares[warp][r] = square;
        }
    }
    __syncthreads();
    if (thread >= 32) return;  // RESULTS of all rows are 32 at the most
    float value = 0.f, other = 0.f, square = 0.f;
    u64 key = 0;
    if (is_finisher) {
        const int i = row * OUTPUTS + thread % RESULTS;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            value += s.sums[w][i];
            if (KIND == 1) other += s.sums[w][i + RESULTS];
            if (SCALED) square += s.squares[w][row];
        }
        const float root = SCALED ? rsqrtf(square * a.inverse_size + a.eps) : 1.f;
        if (KIND == 4) key = choice_key(value * root, result);
        finish(a, value, other, root, row, result, stream);
    }
    if (KIND == 4) {
#pragma unroll
        for (int offset = RESULTS / 2; offset; offset >>= 1) key = max(key, __shfl_xor_sync(0xffffffff, key, offset));
        if (is_finisher && thread % RESULTS == 0) atomicMax((u64*)a.output + row, key);
    }
    if (KIND == 2) {
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            if (BIASED && is_finisher && r == 0) value += from_bf16(a.bias[result]);
            const float total = is_finisher && row == r ? value + stream : 0.f;
            const float sum = warp_sum(total * total);
            if (lane == 0 && r < a.rows) a.squares_out[blockIdx.x * a.rows + r] = sum;
        }
    }
}
