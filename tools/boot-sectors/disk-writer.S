# A guest without an operating system (lab/guests.py): writes a range of its disk again and again at a chosen rate, says so
# on COM1, and at the end reads it all back.
#
#   '.'  one write is acknowledged        '!'  no more writes follow: all are done, or an 's' came in on COM1
#   'V'  what was read back is right      'X'  it is not          'E'  the disk refused
#
# A range has `slots` places for one write each; one pass over them is a generation. Every 16 bytes that are written tell
# the magic, the seed, the number of their sector and their generation, so that a torn sector can be told from a whole one.
# Ends with a byte for isa-debug-exit at 0xf4: 0x10 for V (or when not asked to verify), 0x11 for X, 0x12 for E.
#   as --32 disk-writer.S -o w.o && ld -m elf_i386 -Ttext=0x7c00 --oformat=binary -o w.bin w.o
.code16
.globl _start

.equ COM1, 0x3f8
.equ LINE_STATUS, 0x3fd
.equ TICKS, 0x46c                       # the BIOS counts 18.2 a second here
.equ MADE, 0x1000                       # segment of the buffer that writes come from
.equ READ, 0x2000                       # segment of the one that reads go to

_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0x7c00, %sp
    movb %dl, drive
    cld
    sti

burst:
    movw TICKS, %bp                     # when this burst began
    movw burst_writes, %ax
    movw %ax, left
next:
    call is_told_to_stop
    je finish
    movl writes, %eax
    testl %eax, %eax
    jz 1f                               # endless
    cmpl %eax, done
    jae finish
1:  movl generation, %ebx
    call make
    movw $MADE, packet_segment
    movb $0x43, %ah                     # extended write
    call transfer
    movb $'.', %al
    call say
    incl done
    incl slot
    movl slot, %eax
    cmpl slots, %eax
    jb 2f
    movl $0, slot
    incl generation
2:  decw left
    jnz next
pause:
    movw TICKS, %ax
    subw %bp, %ax
    cmpw ticks, %ax
    jae burst
    call is_told_to_stop
    je finish
    hlt                                 # until the next tick
    jmp pause

finish:
    movb $'!', %al
    call say
    cmpb $0, verifies
    je right
    movl slot, %eax
    movl %eax, end                      # slots before this one have the last generation, the others the one before
    movl $0, slot
check:
    movl slot, %eax
    cmpl slots, %eax
    jae verified
    movl generation, %ebx
    cmpl end, %eax
    jb 1f
    decl %ebx
    jz verified                         # nothing was ever written from here on
1:  call make
    movw $READ, packet_segment
    movb $0x42, %ah                     # extended read
    call transfer
    pushw %ds
    movw $READ, %ax
    movw %ax, %es
    movw sectors, %cx
    shlw $7, %cx                        # in units of 4 bytes
    movw $MADE, %ax
    movw %ax, %ds
    xorw %si, %si
    xorw %di, %di
    repe cmpsl
    popw %ds
    jne differs
    incl slot
    jmp check

verified:
    movb $'V', %al
    call say
right:
    movb $0x10, %al
    jmp leave
differs:
    movw $('X' + 0x1100), %bx
    jmp tell
refused:
    movw $('E' + 0x1200), %bx
tell:
    movb %bl, %al
    call say
    movb %bh, %al
leave:
    outb %al, $0xf4
    cli
1:  hlt
    jmp 1b

# Zero flag: an 's' came in.
is_told_to_stop:
    movw $LINE_STATUS, %dx
    inb %dx, %al
    notb %al
    testb $1, %al
    jnz 1f                              # nothing came in: not zero
    movw $COM1, %dx
    inb %dx, %al
    cmpb $'s', %al
1:  ret

# Says what is in al, as soon as the port takes it, or anyhow after a while.
say:
    movb %al, %ah
    xorw %cx, %cx
    movw $LINE_STATUS, %dx
1:  inb %dx, %al
    testb $0x20, %al
    loopz 1b
    movw $COM1, %dx
    movb %ah, %al
    outb %al, %dx
    ret

# Points the packet to the slot and makes what belongs there in generation ebx.
make:
    movw $MADE, %ax
    movw %ax, %es
    xorw %di, %di
    movzwl sectors, %eax
    mull slot
    addl first, %eax
    movl %eax, packet_sector
    movl %eax, %edx
    movw sectors, %si
1:  movw $32, %cx
2:  movl magic, %eax
    stosl
    movl seed, %eax
    stosl
    movl %edx, %eax
    stosl
    movl %ebx, %eax
    stosl
    loop 2b
    incl %edx
    decw %si
    jnz 1b
    ret

# Does what ah says with the packet; the carry flag tells of failure, which ends all.
transfer:
    movb $0, %al
    movb drive, %dl
    movw $packet, %si
    int $0x13
    jc refused
    ret

# What lab/guests.py fills in, and what the program keeps beside it.
.org 0x1c0
magic:
    .ascii "LABW"
seed:
    .long 0
first:
    .long 2048
slots:
    .long 1
writes:
    .long 0                             # in all; 0 is endless
burst_writes:
    .word 1                             # so many writes are made at once,
ticks:
    .word 0                             # and bursts begin so far from each other at least
verifies:
    .byte 1
drive:
    .byte 0x80
left:
    .word 0
packet:
    .byte 16, 0
sectors:
    .word 64                            # per write: 127 at most
    .word 0
packet_segment:
    .word 0
packet_sector:
    .long 0, 0
generation:
    .long 1
slot:
    .long 0
done:
    .long 0
end:
    .word 0, 0
.org 510
.word 0xaa55
