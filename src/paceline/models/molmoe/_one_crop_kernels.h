/* The arithmetic of `_one_crop.c`, included once for every kind of processor, as `_vectors.h` is. */
#include "../../_vectors.h"

/* The vector with lanes 2^k apart in each other's place. */
TARGET static inline NAME(Vector) NAME(swapped)(NAME(Vector) x, int k)
{
    return __builtin_shuffle(x, *(const NAME(Whole) *)ACROSS[k]);
}

TARGET static inline float NAME(total)(NAME(Vector) x)
{
    _Pragma("GCC unroll 4") for (int k = 0; 1 << k < LANES; k++) x += NAME(swapped)(x, k);
    return x[0];
}

TARGET static inline float NAME(largest)(NAME(Vector) x)
{
    _Pragma("GCC unroll 4") for (int k = 0; 1 << k < LANES; k++) x = NAME(larger)(x, NAME(swapped)(x, k));
    return x[0];
}

/* x / (1 + e^-x), times `other` where that is given. */
TARGET static void NAME(silu)(const float *x, const float *other, int count, float *out)
{
    for (int i = 0; i < count; i += LANES) {
        NAME(Vector) value = *(const NAME(Vector) *)(x + i);
        value = value / (NAME(exponential)(-value) + 1.0f);
        if (other != NULL)
            value *= *(const NAME(Vector) *)(other + i);
        *(NAME(Vector) *)(out + i) = value;
    }
}

/* Each row less its mean, by its standard deviation (1e-5 added to the variance), times a factor, plus an offset. */
TARGET static void NAME(normalise)(const float *x, int rows, int width, const float *factor, const float *offset,
                                   float *out)
{
    for (int row = 0; row < rows; row++, x += width, out += width) {
        NAME(Vector) sum = {0}, squares = {0};
        for (int i = 0; i < width; i += LANES)
            sum += *(const NAME(Vector) *)(x + i);
        float mean = NAME(total)(sum) / width;
        for (int i = 0; i < width; i += LANES) {
            NAME(Vector) apart = *(const NAME(Vector) *)(x + i) - mean;
            squares += apart * apart;
        }
        float scale = 1.0f / sqrtf(NAME(total)(squares) / width + 1e-5f);
        for (int i = 0; i < width; i += LANES)
            *(NAME(Vector) *)(out + i) = (*(const NAME(Vector) *)(x + i) - mean) * scale *
                                             *(const NAME(Vector) *)(factor + i) +
                                         *(const NAME(Vector) *)(offset + i);
    }
}

/* Softmax of each row, times `scale` before; what fills a row up is `NOTHING`. */
TARGET static void NAME(softmax)(float *x, int rows, int step, float scale)
{
    for (int row = 0; row < rows; row++, x += step) {
        NAME(Vector) most = *(const NAME(Vector) *)x, sum = {0};
        for (int i = LANES; i < step; i += LANES)
            most = NAME(larger)(*(const NAME(Vector) *)(x + i), most);
        float highest = NAME(largest)(most);
        for (int i = 0; i < step; i += LANES) {
            NAME(Vector) value = NAME(exponential)((*(const NAME(Vector) *)(x + i) - highest) * scale);
            *(NAME(Vector) *)(x + i) = value;
            sum += value;
        }
        float share = 1.0f / NAME(total)(sum);
        for (int i = 0; i < step; i += LANES)
            *(NAME(Vector) *)(x + i) *= share;
    }
}

/* Of every head, four keys and values of a window, mixed by the query. A row is keys, then values, `width` of each. */
TARGET static void NAME(attend)(const float *query, const float *const *row, int width, int heads, float *out)
{
    int head = width / heads;
    float scale = 1.0f / sqrtf((float)head);
    for (int start = 0; start < width; start += head) {
        float share[LANES];
        for (int key = 4; key < LANES; key++)
            share[key] = NOTHING;
        for (int key = 0; key < 4; key++) {
            NAME(Vector) sum = {0};
            for (int i = start; i < start + head; i += LANES)
                sum += *(const NAME(Vector) *)(query + i) * *(const NAME(Vector) *)(row[key] + i);
            share[key] = NAME(total)(sum);
        }
        NAME(softmax)(share, 1, LANES, scale);
        for (int i = start; i < start + head; i += LANES) {
            NAME(Vector) mixed = {0};
            for (int key = 0; key < 4; key++)
                mixed += share[key] * *(const NAME(Vector) *)(row[key] + width + i);
            *(NAME(Vector) *)(out + i) = mixed;
        }
    }
}

#undef NAME
#undef TARGET
#undef LANES
#undef ROWS_OF_32
#undef ROWS_OF_16
