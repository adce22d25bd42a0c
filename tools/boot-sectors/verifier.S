# A guest without an operating system (tests/system/hosts/verifier.py). It counts; each number it writes 1,024 times into
# a block of 4 KiB, in turn into 64 of them from sector 2048 on, and reads the block before that, which must hold the
# number before. What differs, or fails, it reports by a block at sector 1024, and stops. Meanwhile it changes 448 KiB
# of its memory with every number.
#   as --32 verifier.S -o verifier.o && ld -m elf_i386 -Ttext=0x7c00 --oformat=binary -o verifier.bin verifier.o
.code16
.globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0x7c00, %sp
    cld
    sti
next:
    incl count
    movw $0x2000, %bx
fill:
    movw %bx, %es
    xorw %di, %di
    movw $0x4000, %cx
    movl count, %eax
    rep stosl
    addw $0x1000, %bx
    cmpw $0x9000, %bx
    jb fill
    movl count, %eax
    movb $0x43, %dh                     # extended write
    call transfer
    movl count, %eax
    decl %eax
    jz next
    movb $0x42, %dh                     # extended read
    call transfer
    movw $0x1000, %ax
    movw %ax, %es
    xorw %di, %di
    movw $1024, %cx
    movl count, %eax
    decl %eax
    repe scasl
    je next
bad:
    movl $1024, sector
    movw $0x4300, %ax
    movb $0x80, %dl
    movw $packet, %si
    int $0x13
1:  hlt
    jmp 1b
transfer:                               # the block of the number in eax, by the function in dh
    movl %eax, %ebx
    movw $0x1000, %cx
    movw %cx, %es
    xorw %di, %di
    movw $1024, %cx
    rep stosl
    andl $63, %ebx
    shll $3, %ebx
    addl $2048, %ebx
    movl %ebx, sector
    cmpb $0x42, %dh
    jne 2f
    movl $0, %es:0                      # so that a read that brings nothing is noticed
2:  movb %dh, %ah
    movb $0, %al
    movb $0x80, %dl
    movw $packet, %si
    int $0x13
    jc bad
    ret
.balign 4
count:
    .long 0
packet:
    .byte 16, 0
    .word 8, 0, 0x1000                  # sectors; the buffer at 0x10000
sector:
    .long 0, 0
.org 510
.word 0xaa55
