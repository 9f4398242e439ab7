// The Kotlin twin of pqz_harness.cc: the same input, the same output.
import java.io.DataInputStream
import java.io.EOFException
import java.util.zip.CRC32
import tfproxquant.Pqz

fun main() {
    val input = DataInputStream(System.`in`.buffered())
    while (true) {
        val archive = try {
            ByteArray(Integer.reverseBytes(input.readInt())).also { input.readFully(it) }
        } catch (end: EOFException) {
            return
        }
        try {
            val file = Pqz.expand(archive)
            println("%d %08x".format(file.size, CRC32().apply { update(file) }.value))
        } catch (error: IllegalArgumentException) {
            println("refused")
        }
    }
}
