# A guest without an operating system (src/vdsm/testing/bootsector.py): writes 64 sectors at a time through the BIOS from
# sector 2048 on until `limit`, a dot to COM1 for each write, and '!' at the end or at the first error.
#   as --32 writer.S -o writer.o && ld -m elf_i386 -Ttext=0x7c00 --oformat=binary -o writer.bin writer.o
.code16
.globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    sti
next:
    movl sector, %eax
    cmpl limit, %eax
    jae done
    movb $0x43, %ah                     # extended write, no verification
    movb $0, %al
    movb $0x80, %dl
    movw $packet, %si
    int $0x13
    jc done
    addl $64, sector
    movw $0x3f8, %dx
    movb $'.', %al
    outb %al, %dx
    jmp next
done:
    movw $0x3f8, %dx
    movb $'!', %al
    outb %al, %dx
1:  hlt
    jmp 1b
.org 0x100
packet:
    .byte 16, 0
    .word 64, 0, 0x1000                 # sectors; the buffer at 0x10000
sector:
    .long 2048, 0
limit:
    .long 2048 + 64 * 4000              # at 0x110: the program puts its own number here
.org 510
.word 0xaa55
