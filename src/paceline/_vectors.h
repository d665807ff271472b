/* Arithmetic on vectors, for compiled code that includes it once for every kind of processor.
 *
 * LANES: numbers in a vector register. NAME(x): x of this kind. TARGET: attributes of its functions. ROWS_OF_32,
 * ROWS_OF_16: rows of a product whose sums over 32 or 16 columns stay in registers. Rows of matrices lie one after the
 * other; columns are multiples of 16. ROWS are not 1 or 4, which are for rows that are left over. Who includes it
 * undefines these five before the next kind.
 */
typedef float NAME(Vector) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t NAME(Whole) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* out (rows, columns) = bias + a (rows, depth) b (depth, columns), for so many rows and columns; added where asked. */
#define TILE(rows, columns)                                                                                            \
    TARGET static void NAME(tile_##rows##_##columns)(const float *a, int a_step, int depth, const float *b, int b_step, \
                                                     const float *bias, float *out, int out_step, int added)           \
    {                                                                                                                  \
        enum { VECTORS = (columns) / LANES };                                                                          \
        NAME(Vector) sums[rows][VECTORS];                                                                              \
        _Pragma("GCC unroll 16") for (int v = 0; v < VECTORS; v++)                                                     \
        {                                                                                                              \
            NAME(Vector) first = {0};                                                                                  \
            if (bias != NULL)                                                                                          \
                first = *(const NAME(Vector) *)(bias + v * LANES);                                                     \
            _Pragma("GCC unroll 16") for (int r = 0; r < (rows); r++) sums[r][v] = first;                              \
        }                                                                                                              \
        for (int k = 0; k < depth; k++, b += b_step) {                                                                 \
            NAME(Vector) row[VECTORS];                                                                                 \
            _Pragma("GCC unroll 16") for (int v = 0; v < VECTORS; v++) row[v] = *(const NAME(Vector) *)(b + v * LANES); \
            _Pragma("GCC unroll 16") for (int r = 0; r < (rows); r++)                                                  \
            {                                                                                                          \
                float factor = a[r * a_step + k];                                                                      \
                _Pragma("GCC unroll 16") for (int v = 0; v < VECTORS; v++) sums[r][v] += factor * row[v];              \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 16") for (int r = 0; r < (rows); r++, out += out_step)                                     \
        {                                                                                                              \
            _Pragma("GCC unroll 16") for (int v = 0; v < VECTORS; v++)                                                 \
            {                                                                                                          \
                NAME(Vector) *place = (NAME(Vector) *)(out + v * LANES);                                               \
                if (added)                                                                                             \
                    sums[r][v] += *place;                                                                              \
                *place = sums[r][v];                                                                                   \
            }                                                                                                          \
        }                                                                                                              \
    }

#define TILES_(rows, columns) TILE(rows, columns)
TILES_(ROWS_OF_32, 32)
TILES_(ROWS_OF_16, 16)
TILE(4, 32)
TILE(4, 16)
TILE(1, 32)
TILE(1, 16)

#define CALL_(rows, columns) NAME(tile_##rows##_##columns)
#define CALL(rows, columns) CALL_(rows, columns)

/* out (rows, columns) = bias + a (rows, depth) b (depth, columns); `bias` may be NULL; added to `out` where asked. */
TARGET static void NAME(multiply)(const float *a, int a_step, int rows, int depth, const float *b, int b_step,
                                  int columns, const float *bias, float *out, int out_step, int added)
{
    for (int start = 0; start < columns;) {
        int wide = columns - start >= 32, together = wide ? ROWS_OF_32 : ROWS_OF_16;
        const float *offset = bias == NULL ? NULL : bias + start;
        int row = 0;
        for (; row + together <= rows; row += together)
            (wide ? CALL(ROWS_OF_32, 32) : CALL(ROWS_OF_16, 16))(a + (size_t)row * a_step, a_step, depth, b + start,
                                                                 b_step, offset, out + (size_t)row * out_step + start,
                                                                 out_step, added);
        for (; together > 4 && row + 4 <= rows; row += 4)
            (wide ? NAME(tile_4_32) : NAME(tile_4_16))(a + (size_t)row * a_step, a_step, depth, b + start, b_step, offset,
                                                       out + (size_t)row * out_step + start, out_step, added);
        for (; row < rows; row++)
            (wide ? NAME(tile_1_32) : NAME(tile_1_16))(a + (size_t)row * a_step, a_step, depth, b + start, b_step, offset,
                                                       out + (size_t)row * out_step + start, out_step, added);
        start += wide ? 32 : 16;
    }
}

/* x where it is larger than y, else y. */
TARGET static inline NAME(Vector) NAME(larger)(NAME(Vector) x, NAME(Vector) y)
{
    return (NAME(Vector))(((NAME(Whole))x & (x > y)) | ((NAME(Whole))y & ~(x > y)));
}

/* e^x to about 1e-7 of it: 2^n by its bits, times a polynomial of what is left over (Cephes, expf). Below -80, where a share
 * of the result would be a denormal number, which processors are slow with, it is e^-80; above 88 it is e^88.
 */
TARGET static inline NAME(Vector) NAME(exponential)(NAME(Vector) x)
{
    const NAME(Vector) none = {0}, low = none - 80.0f, high = none + 88.0f;
    x = -NAME(larger)(-high, -NAME(larger)(low, x)); /* NaN is not larger than a bound, and stays */
    NAME(Vector) shifted = x * 1.44269504088896341f + 12582912.0f; /* 1.5 * 2^23: the last bits are a whole number */
    NAME(Vector) count = shifted - 12582912.0f;
    x = x - count * 0.693359375f + count * 2.12194440e-4f;
    NAME(Vector) sum = x * 1.9875691500e-4f + 1.3981999507e-3f;
    sum = sum * x + 8.3334519073e-3f;
    sum = sum * x + 4.1665795894e-2f;
    sum = sum * x + 1.6666665459e-1f;
    sum = sum * x + 5.0000001201e-1f;
    sum = sum * x * x + x + 1.0f;
    NAME(Whole) power = ((NAME(Whole))shifted << 23) + (127 << 23);
    return sum * (NAME(Vector))power;
}

#undef TILE
#undef TILES_
#undef CALL
#undef CALL_
