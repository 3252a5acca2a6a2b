// Parts of a sequence's sums that blocks leave in memory for others. A few are counted, and added one after the other (`Part`); many are joined by many
// warps at once, who see of every piece whether it is there (`Piece`). What heads.cuh names must be set.

// Sums that another block joins: numbers of rows, and what is best of each, behind which stand the totals of all rows.
struct Part {
    float *sums, *bests;
};

// Behind everything that this warp has written before.
__device__ __forceinline__ void count_part(int* counter) { asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(counter) : "memory"); }

// The same with how many there were before; what was written before any of them can be read then.
__device__ __forceinline__ int arrive(int* counter) {
    int before;
    asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
    return before;
}

__device__ __forceinline__ int counted_parts(const int* counter) {
    int count;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(count) : "l"(counter) : "memory");
    return count;
}

// Four numbers of a row's output over one part's keys, eight columns apart, and the logarithm of their weight: what one lane leaves at a time. Whoever reads
// it needs no counter and no fence, each a trip to memory: until it is there its words are EMPTY, and its only reader leaves it so again for the next launch.
// All of them are looked at again and again until they are there, so they are small: a number has 16 significant bits, the fourth's are in the low bytes of
// the others. The pieces of 32 columns lie in the order of their first.
struct __align__(16) Piece {
    u32 words[4];
};

#define EMPTY 0xffffffffu          // no word of a piece is that
#define PIECES (HEAD / 4)          // of a row
#define FOURS (GROUP * PIECES)     // of a head's queries
#define AT_ONCE 6                  // parts of which a lane asks for a piece together

__device__ __forceinline__ u32 short_word(float number) { return isnan(number) ? 0x7fffff00u : __float_as_uint(number) & ~0xffu; }

__device__ __forceinline__ void leave(Piece* place, float4 output, float weight) {
    const u32 fourth = short_word(output.w);
    const u32 first = short_word(output.x) | (fourth >> 8 & 0xff), second = short_word(output.y) | (fourth >> 16 & 0xff);
    const u32 third = short_word(output.z) | fourth >> 24, last = isnan(weight) ? 0x7fffff00u : __float_as_uint(weight);
    asm volatile("st.relaxed.gpu.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(place), "r"(first), "r"(second), "r"(third), "r"(last) : "memory");
}

__device__ __forceinline__ void empty(Piece* place) { *(uint4*)place = make_uint4(EMPTY, EMPTY, EMPTY, EMPTY); }

// Whether the whole piece is there; words of one that is not may be EMPTY.
__device__ __forceinline__ bool look(Piece& piece, const Piece* place) {
    u32(&words)[4] = piece.words;
    asm volatile("ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "l"(place)
                 : "memory");
    return words[0] != EMPTY && words[1] != EMPTY && words[2] != EMPTY && words[3] != EMPTY;
}

// Four numbers of some queries' output over parts: their sum by weight, the largest weight's logarithm, and the sum of weights beside it.
struct Four {
    float best, total;
    float4 sum;

    __device__ __forceinline__ void add(const Piece& piece) {
        const u32(&words)[4] = piece.words;
        const float other = __uint_as_float(words[3]), higher = fmaxf(best, other), old = exp2f(best - higher), own = exp2f(other - higher);
        best = higher, total = total * old + own;
        sum.x = sum.x * old + __uint_as_float(words[0] & ~0xffu) * own, sum.y = sum.y * old + __uint_as_float(words[1] & ~0xffu) * own;
        sum.z = sum.z * old + __uint_as_float(words[2] & ~0xffu) * own;
        sum.w = sum.w * old + __uint_as_float((words[0] & 0xff) << 8 | (words[1] & 0xff) << 16 | words[2] << 24) * own;
    }
};

// Every `step`th of `count` parts from `begin` on: piece `four` of each, once it is there. `part_at(i)` is where the i-th's pieces lie.
template <class PartAt>
__device__ __forceinline__ Four gather_parts(PartAt part_at, u32 count, u32 four, u32 begin, u32 step) {
    Four found = {LOWEST, 0.f, make_float4(0.f, 0.f, 0.f, 0.f)};
    for (; begin < count; begin += AT_ONCE * step) {
        Piece pieces[AT_ONCE];
        u32 missing = (1u << min(AT_ONCE, (count - begin + step - 1) / step)) - 1;
        while (missing) {  // all are on their way before the first is looked at
            u32 there = 0;
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) {
                if (!(missing >> i & 1)) continue;
                if (look(pieces[i], part_at(begin + i * step) + four)) there |= 1u << i;
            }
            missing &= ~there;
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            if (begin + i * step >= count) continue;
            empty(part_at(begin + i * step) + four);
            found.add(pieces[i]);
        }
    }
    return found;
}

// One of `shares` shares of a head's output, [GROUP, HEAD]. Lanes side by side have four numbers each, and as many such groups as a warp has room for
// have other parts of the same ones. Every piece has one reader.
template <class PartAt>
__device__ __forceinline__ void join_share(PartAt part_at, u32 count, u16* output, u32 share, u32 shares, int lane) {
    const u32 each = (FOURS + shares - 1) / shares, end = min(FOURS, (share + 1) * each);
    u32 columns = 1;
    while (columns < 32 && columns < each) columns *= 2;
    for (u32 first = share * each; first < end; first += columns) {
        const u32 four = first + lane % columns;
        Four found = gather_parts(part_at, four < end ? count : 0, four, lane / columns, 32 / columns);
        float highest = found.best;
        for (u32 offset = columns; offset < 32; offset *= 2) highest = fmaxf(highest, __shfl_xor_sync(0xffffffff, highest, offset));
        const float weight = exp2f(found.best - highest);  // of a lane without parts: 0
        found.total *= weight, found.sum.x *= weight, found.sum.y *= weight, found.sum.z *= weight, found.sum.w *= weight;
        for (u32 offset = columns; offset < 32; offset *= 2) {
            found.total += __shfl_xor_sync(0xffffffff, found.total, offset);
            found.sum.x += __shfl_xor_sync(0xffffffff, found.sum.x, offset), found.sum.y += __shfl_xor_sync(0xffffffff, found.sum.y, offset);
            found.sum.z += __shfl_xor_sync(0xffffffff, found.sum.z, offset), found.sum.w += __shfl_xor_sync(0xffffffff, found.sum.w, offset);
        }
        const float part = 1.f / found.total;
        if (lane >= columns || four >= end) continue;
        u16* target = output + four / 8 * 32 + four % 8;
        target[0] = to_bf16(found.sum.x * part), target[8] = to_bf16(found.sum.y * part);
        target[16] = to_bf16(found.sum.z * part), target[24] = to_bf16(found.sum.w * part);
    }
}
