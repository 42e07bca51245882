@echo off
rem SPDX-License-Identifier: MIT
rem Undoes what install.cmd noted in %SystemRoot%\vmkd\journal.txt, last change first. May be run as often as wanted, also after
rem an installation or an undo that was cut short at any point.
rem
rem   uninstall.cmd [/quiet]
rem
rem Exit status: 0 everything is as it was, or nothing was installed; 1 refused; 3 something could not be undone (it says what),
rem the journal stays: run it again, after a restart if a file is in use.
rem
rem Each :undo_... brings about a state and does not mind if that state is there already: it deletes, and then looks whether it
rem is gone, so that neither a deletion nor a look that fails is taken for success. Rules as in install.cmd.
setlocal enableextensions disabledelayedexpansion
set "KEEP=%SystemRoot%\vmkd"
set "JOURNAL=%KEEP%\journal.txt"
set "SYSTEM32=%SystemRoot%\System32"
set "ENTRY_NAME=vmkd debugging"
set "HEX=0123456789abcdefABCDEF"
set "BOOTMGR=HKLM\BCD00000000\Objects\{9dea862c-5cdd-4e70-acc1-f32b344d4795}\Elements"
set "TRUSTED_INSTALLER=*S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"
set "PATH=%SystemRoot%\System32"
rem A variable of this name would hide the exit status.
set "ERRORLEVEL="
set "PATHEXT=.COM;.EXE;.BAT;.CMD"
cd /d "%SystemRoot%"
set "QUIET="
if /i "%~1"=="/quiet" set "QUIET=1"

reg query HKU\S-1-5-19 >nul 2>nul
if not "%errorlevel%"=="0" goto :not_admin
if not defined PROCESSOR_ARCHITEW6432 goto :native
echo vmkd: this is a 32-bit cmd on a 64-bit Windows. Use the normal one: Start, type cmd, "Run as administrator".
exit /b 1
:native
set "COUNT=0"
set "FAILED="
set "ENTRY="
if exist "%KEEP%\setup.txt" echo vmkd: this Windows was prepared from outside, by "vmkd setup", which undoes it: on the host, with the VM off, vmkd setup --undo IMAGE& exit /b 1
if exist "%JOURNAL%" goto :have_journal
if not exist "%KEEP%\" echo vmkd: not installed; nothing to undo.& exit /b 0
rem A folder without a journal: cut short before the first change, or after the last undo.
goto :clean
:have_journal
rem A line without its end was being written when everything stopped: its change was never begun.
for /f "usebackq tokens=1-4 delims=*" %%a in ("%JOURNAL%") do if "%%d"=="end" call :load "%%a" "%%b" "%%c"
for /l %%i in (%COUNT%,-1,1) do call :undo %%i
if not defined FAILED goto :clean
echo vmkd: not everything could be undone. The journal stays (%JOURNAL%); start the VM again and run uninstall.cmd once more.
exit /b 3
:clean
rd /s /q "%KEEP%"
if exist "%KEEP%\" echo vmkd: %KEEP% could not be removed; close what has it open, and run this again.& exit /b 3
if not defined QUIET echo vmkd: removed; everything is as it was.
exit /b 0

:not_admin
echo vmkd: this needs an administrator. Start cmd with "Run as administrator", then run uninstall.cmd in it.
exit /b 1

:load
set /a COUNT=COUNT+1
set "KEYWORD%COUNT%=%~1"
set "FIRST%COUNT%=%~2"
set "SECOND%COUNT%=%~3"
if "%~1"=="entry" if not "%~2"=="-" set "ENTRY=%~2"
exit /b 0

:undo
call set "KEYWORD=%%KEYWORD%1%%"
call set "FIRST=%%FIRST%1%%"
call set "SECOND=%%SECOND%1%%"
for %%k in (keep done file service eventlog cert bootini entry owner kdcom default timeout) do if "%KEYWORD%"=="%%k" goto :undo_%%k
echo vmkd: the journal has a line "%KEYWORD%" that this uninstall.cmd does not know; use the one of the same medium.
set "FAILED=1"
exit /b 0

:undo_keep
:undo_done
exit /b 0

:undo_file
if not exist "%SystemRoot%\%FIRST%" exit /b 0
del /f /q "%SystemRoot%\%FIRST%"
if not exist "%SystemRoot%\%FIRST%" exit /b 0
set "WHAT=deleting %SystemRoot%\%FIRST% (in use?)"
goto :undo_failed

:undo_service
set "WHAT=deleting the service vmkd"
sc stop vmkd >nul 2>nul
sc delete vmkd >nul 2>nul
sc query vmkd >nul 2>nul
if "%errorlevel%"=="0" goto :undo_failed
exit /b 0

:undo_eventlog
set "WHAT=deleting the event source vmkd"
reg delete HKLM\SYSTEM\CurrentControlSet\Services\EventLog\System\vmkd /f >nul 2>nul
reg query HKLM\SYSTEM\CurrentControlSet\Services\EventLog\System\vmkd >nul 2>nul
if "%errorlevel%"=="0" goto :undo_failed
exit /b 0

:undo_cert
set "WHAT=removing the test certificate from %FIRST%"
certutil -delstore %FIRST% %SECOND% >nul 2>nul
certutil -store %FIRST% %SECOND% >nul 2>nul
if "%errorlevel%"=="0" goto :undo_failed
exit /b 0

:undo_bootini
set "WHAT=changing %FIRST% back"
if exist "%FIRST%.vmkd" del /f /q "%FIRST%.vmkd"
find "/DEBUGPORT=vmkd" <"%FIRST%" >nul
if "%errorlevel%"=="1" goto :bootini_attributes
if not "%errorlevel%"=="0" goto :undo_failed
attrib -r -s -h "%FIRST%"
if not "%errorlevel%"=="0" goto :undo_failed
rem Ours to the byte: the old bytes come back. Changed by somebody since: our line goes, the rest stays as it is now.
fc /b "%KEEP%\boot.ini.after" "%FIRST%" >nul
if "%errorlevel%"=="1" goto :bootini_changed
if not "%errorlevel%"=="0" goto :undo_failed
copy /y /b "%KEEP%\boot.ini.before" "%FIRST%.vmkd" >nul
fc /b "%KEEP%\boot.ini.before" "%FIRST%.vmkd" >nul
if not "%errorlevel%"=="0" goto :undo_failed
goto :bootini_move
:bootini_changed
echo vmkd: %FIRST% was changed since; only our line is taken out of it.
find /v "/DEBUGPORT=vmkd" <"%FIRST%" >"%FIRST%.vmkd"
if not "%errorlevel%"=="0" goto :undo_failed
:bootini_move
move /y "%FIRST%.vmkd" "%FIRST%" >nul
if exist "%FIRST%.vmkd" goto :undo_failed
:bootini_attributes
attrib %SECOND% "%FIRST%"
if not "%errorlevel%"=="0" goto :undo_failed
exit /b 0

:undo_entry
set "WHAT=deleting the boot entry"
if not "%FIRST%"=="-" goto :undo_entry_known
rem Cut short between the copy and the note of its GUID: the entry is found by its name, which nobody had before.
if defined ENTRY exit /b 0
call :find_named_entry
if not defined NAMED call :find_named_entry
if not defined NAMED exit /b 0
set "FIRST=%NAMED%"
:undo_entry_known
bcdedit /delete %FIRST% /cleanup >nul 2>nul
bcdedit /enum %FIRST% >nul 2>nul
if "%errorlevel%"=="0" goto :undo_failed
exit /b 0

:undo_owner
set "WHAT=giving %FIRST% back its owner and its rights"
icacls "%SYSTEM32%\%FIRST%" /setowner %TRUSTED_INSTALLER% >nul
if not "%errorlevel%"=="0" goto :undo_failed
rem The folder is removed last, in any order: without this file all of it was undone before.
if not exist "%KEEP%\kdcom.acl" exit /b 0
icacls "%SYSTEM32%" /restore "%KEEP%\kdcom.acl" >nul
if not "%errorlevel%"=="0" goto :undo_failed
exit /b 0

:undo_kdcom
set "WHAT=putting kdcom.dll back"
if exist "%SYSTEM32%\kdcom_vmkd_new.dll" del /f /q "%SYSTEM32%\kdcom_vmkd_new.dll"
if not exist "%SYSTEM32%\kdcom_vmkd_original.dll" goto :kdcom_no_original
if not exist "%SYSTEM32%\kdcom.dll" goto :kdcom_move
fc /b "%KEEP%\kdvmkd.dll" "%SYSTEM32%\kdcom.dll" >nul
if "%errorlevel%"=="1" goto :kdcom_not_ours
if not "%errorlevel%"=="0" goto :undo_failed
:kdcom_move
move /y "%SYSTEM32%\kdcom_vmkd_original.dll" "%SYSTEM32%\kdcom.dll" >nul
if exist "%SYSTEM32%\kdcom_vmkd_original.dll" goto :undo_failed
exit /b 0
:kdcom_not_ours
rem Not replaced yet, so both names are one file; or replaced by an update since, which is newer than what we kept.
del /f /q "%SYSTEM32%\kdcom_vmkd_original.dll"
if exist "%SYSTEM32%\kdcom_vmkd_original.dll" goto :undo_failed
exit /b 0

rem Undone before, or not begun. But where ours is still there, somebody has removed the original.
:kdcom_no_original
fc /b "%KEEP%\kdvmkd.dll" "%SYSTEM32%\kdcom.dll" >nul 2>nul
if not "%errorlevel%"=="0" exit /b 0
set "WHAT=putting kdcom.dll back: its original, kdcom_vmkd_original.dll, is gone (sfc /scannow brings a new kdcom.dll)"
goto :undo_failed

rem Only where the default and the time still are what we made them.
:undo_default
set "WHAT=making %FIRST% the default entry again"
set "ID="
for /f "tokens=1-3 delims={}" %%a in ('bcdedit /enum {default} /v') do (
	set "T1=%%a"
	set "T2=%%b"
	set "T3=%%c"
	call :take_id
)
if defined ID if /i not "%ID%"=="%ENTRY%" exit /b 0
bcdedit /default %FIRST% >nul 2>nul
if "%errorlevel%"=="0" exit /b 0
rem The old default may be gone; then there is nothing to go back to.
bcdedit /enum %FIRST% >nul 2>nul
if "%errorlevel%"=="0" goto :undo_failed
exit /b 0

:undo_timeout
set "WHAT=setting the boot menu's time back"
set "NOW="
for /f "tokens=1-3" %%a in ('reg query %BOOTMGR%\25000004 /v Element 2^>nul') do if /i "%%a"=="Element" set "NOW=%%c"
if not defined NOW goto :timeout_back
rem Little endian, 8 bytes in hexadecimal.
set /a NOW=0x%NOW:~6,2%%NOW:~4,2%%NOW:~2,2%%NOW:~0,2%
if not "%NOW%"=="%SECOND%" exit /b 0
:timeout_back
if "%FIRST%"=="none" goto :timeout_none
set /a BEFORE=0x%FIRST:~6,2%%FIRST:~4,2%%FIRST:~2,2%%FIRST:~0,2%
bcdedit /timeout %BEFORE% >nul
if not "%errorlevel%"=="0" goto :undo_failed
exit /b 0
:timeout_none
bcdedit /deletevalue {bootmgr} timeout >nul
if not "%errorlevel%"=="0" goto :undo_failed
exit /b 0

:undo_failed
echo vmkd: FAILED: %WHAT%.
set "FAILED=1"
exit /b 0

rem ---- The next three are those of install.cmd. ------------------------------------------------------------------------
rem T1 to T3 are pieces of a line between braces. The first GUID that is seen becomes ID; everything else is anybody's words.
rem Quotes become bars, so that nothing in them can end a quotation of ours.
:take_id
if not defined ID if defined T1 call :take_1
if not defined ID if defined T2 call :take_2
if not defined ID if defined T3 call :take_3
exit /b 0
:take_1
set "T=%T1:"=|%"
goto :take_one
:take_2
set "T=%T2:"=|%"
goto :take_one
:take_3
set "T=%T3:"=|%"
:take_one
for /f "tokens=1-5 delims=%HEX%" %%p in ("%T%") do if "%%p%%q%%r%%s*%%t"=="----*" goto :take_shape
exit /b 0
:take_shape
rem Hexadecimal digits and four dashes: now it may be cut up without quotes. 8-4-4-4-12.
if "%T:~8,1%%T:~13,1%%T:~18,1%%T:~23,1%%T:~36,1%"=="----" if not "%T:~35,1%"=="" set "ID={%T%}"
exit /b 0

rem NAMED becomes the GUID of a loader entry with our name, or nothing.
:find_named_entry
set "NAMED="
for /f "tokens=1-3 delims={}" %%a in ('bcdedit /enum osloader /v') do (
	set "ID="
	set "T1=%%a"
	set "T2=%%b"
	set "T3=%%c"
	call :take_id
	call :is_named
)
exit /b 0
:is_named
if not defined ID exit /b 0
bcdedit /enum %ID% /v 2>nul | find "%ENTRY_NAME%" >nul
if "%errorlevel%"=="0" set "NAMED=%ID%"
exit /b 0
