package tfproxquant

import java.util.zip.CRC32
import java.util.zip.DataFormatException
import java.util.zip.Inflater

/** Expands `.pqz` archives of `.tflite` files. docs/archive.md describes the format. */
object Pqz {
    private const val HEADER_SIZE = 44
    private const val MAX_RATIO = 128L
    private const val MIN_DIGITS = 64

    /**
     * Returns the bytes of the `.tflite` file that [archive] was made from.
     *
     * @throws IllegalArgumentException if the archive is damaged or its file is larger than
     *   [maxBytes].
     */
    @JvmStatic
    @JvmOverloads
    fun expand(archive: ByteArray, maxBytes: Int = Int.MAX_VALUE - 8): ByteArray {
        demand(archive.size >= HEADER_SIZE && archive.startsWith("PQZ\u0001"), "no header")
        val most = minOf(maxBytes.toLong(), MAX_RATIO * archive.size)
        var at = HEADER_SIZE
        val (plan, plain, floats, digits) = List(4) {
            val inflated = archive.int32(12 + 8 * it)
            val deflated = archive.int32(16 + 8 * it)
            demand(inflated <= most && deflated <= archive.size - at, "a length is too large")
            at += deflated.toInt()
            Stream(inflate(archive, at - deflated.toInt(), deflated.toInt(), inflated.toInt()))
        }
        val size = archive.int32(4)
        demand(at == archive.size && size <= most && floats.bytes.size % 4 == 0, "a length is wrong")
        val file = ByteArray(size.toInt())
        var out = 0
        while (out < file.size) {
            val segment = plan.take(5)
            val kind = plan.bytes[segment].toInt() and 0xFF
            val count = plan.bytes.int32(segment + 1)
            val least = if (kind < 2) 1 else MIN_DIGITS
            demand(count in least..file.size - out, "a segment is too short or too long")
            when (kind) {
                0 -> plain.copyBytes(file, out, count.toInt())
                1 -> floats.copyFloats(file, out, count.toInt())
                else -> digits.copyDigits(plan, kind, file, out, count.toInt())
            }
            out += count.toInt()
        }
        demand(listOf(plan, plain, floats, digits).all { it.at == it.bytes.size }, "bytes are left")
        demand(CRC32().apply { update(file) }.value == archive.int32(8), "the checksum differs")
        return file
    }

    private class Stream(val bytes: ByteArray) {
        var at = 0

        /** Returns where the next [count] bytes start. */
        fun take(count: Int): Int {
            demand(count <= bytes.size - at, "a stream is too short")
            at += count
            return at - count
        }

        fun copyBytes(file: ByteArray, out: Int, count: Int) {
            System.arraycopy(bytes, take(count), file, out, count)
        }

        /** The stream holds four planes: the first bytes of all floats, then the second ones, ... */
        fun copyFloats(file: ByteArray, out: Int, count: Int) {
            val first = take(count)
            val quarter = bytes.size / 4
            for (i in 0 until count) {
                file[out + i] = bytes[(first + i) % 4 * quarter + (first + i) / 4]
            }
        }

        fun copyDigits(plan: Stream, kind: Int, file: ByteArray, out: Int, count: Int) {
            val base = kind and 127
            val size = if (kind and 128 != 0) 4 else 1 // bytes that a digit stands for
            demand(base > 1 && count % size == 0, "digits of an impossible base")
            var width = 0
            var reach = 1
            while (reach * base <= 256) {
                reach *= base
                width += size
            }
            val values = plan.take(base * size)
            var packed = take(count / width + (if (count % width != 0) 1 else 0))
            for (start in out until out + count step width) {
                var digits = bytes[packed++].toInt() and 0xFF
                demand(digits < reach, "a byte stands for no digits")
                for (i in start until minOf(start + width, out + count) step size) {
                    System.arraycopy(plan.bytes, values + digits % base * size, file, i, size)
                    digits /= base
                }
            }
        }
    }

    private fun inflate(data: ByteArray, offset: Int, size: Int, inflated: Int): ByteArray {
        val bytes = ByteArray(inflated)
        val inflater = Inflater(true)
        try {
            inflater.setInput(data, offset, size)
            var end = 0
            while (end < inflated) {
                val count = inflater.inflate(bytes, end, inflated - end)
                demand(count > 0, "a stream is shorter than declared")
                end += count
            }
            val excess = inflater.inflate(ByteArray(1))
            demand(excess == 0 && inflater.finished(), "a stream is longer than declared")
            demand(inflater.remaining == 0, "a stream ends early")
        } catch (error: DataFormatException) {
            throw IllegalArgumentException("Not a usable .pqz archive: ${error.message}", error)
        } finally {
            inflater.end()
        }
        return bytes
    }

    private fun ByteArray.int32(at: Int): Long =
        (0..3).fold(0L) { sum, i -> sum or ((this[at + i].toLong() and 0xFF) shl 8 * i) }

    private fun ByteArray.startsWith(text: String): Boolean =
        text.indices.all { this[it] == text[it].code.toByte() }

    private fun demand(condition: Boolean, what: String) {
        require(condition) { "Not a usable .pqz archive: $what" }
    }
}
