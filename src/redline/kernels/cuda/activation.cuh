// What gated layers do to their gates: SiLU, or with GELU its approximation by tanh.

__device__ __forceinline__ float exponential_of_two(float x) {
    asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
}

__device__ __forceinline__ float reciprocal(float x) {
    asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
}

// exp(-x) for SiLU, x / (1 + exp(-x)), or for GELU, where (1 + tanh(x)) / 2 = 1 / (1 + exp(-2 x)). Past 40 it makes no difference to a sum with 1, or to a
// quotient of nearly nothing, and two of them can be multiplied.
__device__ __forceinline__ float exponential(float gate) {
    const float x = GELU ? 1.5957691216057308f * (gate + 0.044715f * gate * gate * gate) : gate;
    return exponential_of_two(fminf(-1.4426950408889634f * x, 57.7f));
}

// Two activations times their values, by one reciprocal: that unit and the exponential's are what a tile's end waits for.
__device__ __forceinline__ void activate(float& x, float& y, float up_x, float up_y) {
    const float below_x = 1.f + exponential(x), below_y = 1.f + exponential(y), both = reciprocal(below_x * below_y);
    x *= up_x * below_y * both, y *= up_y * below_x * both;
}
